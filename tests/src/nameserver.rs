//! A nameserver on loopback that answers as its test decides, also as no nameserver should.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use hickory_resolver::proto::op::{Message, Query, ResponseCode};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// How the nameserver answers one question.
#[derive(Debug, Clone)]
pub enum NameAnswer {
    /// Those of the kind that was asked for, with this TTL in seconds.
    Addresses(Vec<IpAddr>, u32),
    NoSuchName,
    /// It cannot find out.
    ServFail,
    Silence,
    /// This address under a wrong id, then for another name, then from another port; after these the answer.
    LieBefore(IpAddr, Box<NameAnswer>),
}

/// Dropping the value ends the server.
#[derive(Debug)]
pub struct NameServer {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
    server: JoinHandle<()>,
}

impl NameServer {
    /// The script gets the name in lower case, without the dot at its end, and how often this question came before.
    pub async fn start(script: impl Fn(&str, usize) -> NameAnswer + Send + Sync + 'static) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has a free port");
        let address = socket.local_addr().expect("a bound socket has an address").to_string();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let journal = Arc::clone(&asked);
        let server = tokio::spawn(async move {
            let mut datagram = [0; 4_096];
            while let Ok((length, from)) = socket.recv_from(&mut datagram).await {
                let Ok(question) = Message::from_vec(&datagram[..length]) else { continue };
                let Some(query) = question.queries.first() else { continue };
                let name = query.name().to_lowercase().to_utf8().trim_end_matches('.').to_owned();
                let line = format!("{} {name}", query.query_type());
                let nth = {
                    let mut asked = journal.lock().unwrap_or_else(PoisonError::into_inner);
                    let nth = asked.iter().filter(|before| **before == line).count();
                    asked.push(line);
                    nth
                };
                answer(&socket, from, &question, script(&name, nth)).await;
            }
        });
        Self { address, asked, server }
    }

    /// For `FOREMAN_WEBHOOK_NAMESERVERS`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// All questions so far, such as `AAAA receiver.example`.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(socket: &UdpSocket, to: std::net::SocketAddr, question: &Message, mut answer: NameAnswer) {
    if let NameAnswer::LieBefore(address, truth) = answer {
        let mut lie =
            message(question, &NameAnswer::Addresses(vec![address], 60)).expect("addresses are told");
        let query = question.queries.first().expect("it was looked at before");
        let elsewhere = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has a free port");
        send(&elsewhere, to, &lie).await;
        lie.metadata.id = lie.metadata.id.wrapping_add(1);
        send(socket, to, &lie).await;
        lie.metadata.id = question.metadata.id;
        let other = "other.example.".parse().expect("it is a name");
        lie.queries = vec![Query::query(other, query.query_type())];
        send(socket, to, &lie).await;
        answer = *truth;
    }
    if let Some(message) = message(question, &answer) {
        send(socket, to, &message).await;
    }
}

fn message(question: &Message, answer: &NameAnswer) -> Option<Message> {
    let query = question.queries.first()?;
    let mut message = Message::response(question.metadata.id, question.metadata.op_code);
    message.metadata.recursion_available = true;
    message.queries = vec![query.clone()];
    match answer {
        NameAnswer::Silence | NameAnswer::LieBefore(..) => return None,
        NameAnswer::NoSuchName => message.metadata.response_code = ResponseCode::NXDomain,
        NameAnswer::ServFail => message.metadata.response_code = ResponseCode::ServFail,
        NameAnswer::Addresses(addresses, ttl) => {
            let is_asked = |address: &&IpAddr| match query.query_type() {
                RecordType::A => address.is_ipv4(),
                RecordType::AAAA => address.is_ipv6(),
                _ => false,
            };
            message.answers = addresses
                .iter()
                .filter(is_asked)
                .map(|address| Record::from_rdata(query.name().clone(), *ttl, RData::from(*address)))
                .collect();
        }
    }
    Some(message)
}

async fn send(socket: &UdpSocket, to: std::net::SocketAddr, message: &Message) {
    let bytes = message.to_vec().expect("a short message has bytes");
    // Who asked may have gone.
    let _sent = socket.send_to(&bytes, to).await;
}
