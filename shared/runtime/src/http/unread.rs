//! Requests that are answered before their body was read. Most of them are refused. If we closed the connection while the
//! client still sends, the system would reset the connection, and the answer would be lost. Gateways turn that into a 502.
//! So the rest of the body is read and thrown away, for a few seconds at most.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// By then the answer is on its way, and a client that reads it stops sending.
const LINGER: Duration = Duration::from_secs(5);

/// The body of a request, as a handler gets it. The handler may drop it at any moment.
#[derive(Debug)]
pub(super) struct Lingering(Option<Incoming>);

impl Lingering {
    pub(super) fn new(body: Incoming) -> Self {
        Self(Some(body))
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if let Some(mut body) = self.0.take()
            && !body.is_end_stream()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(timeout(LINGER, async move {
                while let Some(Ok(_unread)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {}
            }));
        }
    }
}

impl Body for Lingering {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}
