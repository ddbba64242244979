//! Which write frees whose work: the one list of it. The store itself tells, after the commit, so that no caller can
//! forget it. What is not in this list wakes nobody, and whoever waits for it waits for a poll.

use crate::db::connect::Store;
use crate::db::wake::Topic;

/// A write that somebody may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// A job that may be run now.
    Accepted,
    /// A job that is to be run later.
    AcceptedForLater,
    /// A lease came to `loading` or `working`, by its claim or after it.
    Begun,
    /// A lease ended with its job.
    Ended,
    /// A lease ended and its job may be claimed again.
    HandedBack,
    /// A lease ended and its job waits for its next attempt.
    PutOff,
    /// A lease ended whose job is gone, and with that all that could have been told of it.
    LeaseDropped,
    /// A job ended that nobody held: it was cancelled, its time had passed, or no host has its model.
    EndedUnclaimed,
    /// A lease was marked for its holder to cancel.
    CancelAsked,
    /// Jobs whose time has come may be claimed.
    Promoted,
    /// What dead workers held is free: their jobs and their hosts.
    Rescued,
    /// Transitions became webhooks.
    Relayed,
    /// A webhook ended that had not been sent, and the next one of its job may be sent.
    GivenUpUnsent,
    /// An event that is not its job's last has ended, and the next one may be sent; or it got the time of its next attempt.
    Reported,
    /// A webhook is to be sent now because somebody asked for it.
    Redelivered,
    /// A host has no holder any more.
    HostFreed,
    /// A host said which models it has, or that its Ollama does not answer.
    Published,
}

impl Write {
    /// The topics that it may have news for; each topic says who waits for it.
    const fn frees(self) -> &'static [Topic] {
        use Topic::{Cancel, Delivery, Host, Job, Outbox, Published, Ready, Scheduled};
        match self {
            Self::Accepted => &[Ready, Outbox],
            // A time that has passed by now makes it ready at once.
            Self::AcceptedForLater => &[Ready, Scheduled, Outbox],
            Self::Begun | Self::Ended | Self::EndedUnclaimed => &[Outbox, Job],
            Self::HandedBack => &[Ready, Outbox, Job],
            Self::PutOff => &[Scheduled, Outbox, Job],
            Self::LeaseDropped => &[Job],
            Self::CancelAsked => &[Cancel],
            Self::Promoted => &[Ready],
            Self::Rescued => &[Ready, Outbox, Job, Host],
            Self::Relayed | Self::GivenUpUnsent | Self::Reported | Self::Redelivered => &[Delivery],
            Self::HostFreed => &[Host],
            Self::Published => &[Published],
        }
    }

    /// The statements that make it, by their names.
    #[cfg(test)]
    const fn statements(self) -> &'static [&'static str] {
        match self {
            Self::Accepted | Self::AcceptedForLater => &["accept_jobs"],
            Self::Begun => &["claim_jobs", "begin_jobs"],
            Self::Ended | Self::HandedBack | Self::PutOff => &["leave_leases"],
            Self::LeaseDropped => &["drop_leases_without_request"],
            Self::EndedUnclaimed => &["cancel_waiting", "expire_jobs", "fail_for_want_of_model"],
            Self::CancelAsked => &["cancel_leased"],
            Self::Promoted => &["promote_jobs"],
            Self::Rescued => &["rescue_leases", "bury_workers"],
            Self::Relayed => &["relay_outbox"],
            Self::GivenUpUnsent => &["claim_deliveries", "end_old_deliveries"],
            Self::Reported => &["settle_deliveries"],
            Self::Redelivered => &["bring_forward", "deliver_again"],
            Self::HostFreed => &["release_host", "deregister_worker"],
            Self::Published => &["publish_models", "note_unreachable"],
        }
    }
}

impl Store {
    /// Wakes whoever waits for what these writes may have freed. To be called after their commit.
    pub(crate) fn tell(&self, writes: impl IntoIterator<Item = Write>) {
        let topics = writes.into_iter().flat_map(|write| write.frees()).copied();
        self.wakeups().tell_all(topics);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    const ALL: [Write; 17] = [
        Write::Accepted,
        Write::AcceptedForLater,
        Write::Begun,
        Write::Ended,
        Write::HandedBack,
        Write::PutOff,
        Write::LeaseDropped,
        Write::EndedUnclaimed,
        Write::CancelAsked,
        Write::Promoted,
        Write::Rescued,
        Write::Relayed,
        Write::GivenUpUnsent,
        Write::Reported,
        Write::Redelivered,
        Write::HostFreed,
        Write::Published,
    ];

    /// Tables whose rows are somebody's work, or decide whether he may do it.
    const WAITED_FOR: [&str; 9] = [
        "job_ready",
        "job_scheduled",
        "job_lease",
        "job_done",
        "outbox",
        "webhook_delivery",
        "host",
        "host_model",
        "worker",
    ];

    /// Statements that write such rows and free nobody, since they only say that somebody is there or goes on.
    const FREE_NOBODY: [&str; 5] =
        ["register_worker", "renew_worker", "introduce_host", "take_host", "extend_claim"];

    /// The names of all statements that write to one of these tables, as `shared/store/prepare` found them.
    fn writing(tables: &[&str]) -> BTreeSet<String> {
        let prepared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.sqlx");
        let texts =
            fs::read_dir(prepared).unwrap().map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
        let names_whole = |text: &str, write: &str| {
            let ends_there =
                |end: usize| !text[end..].starts_with(|next: char| next.is_alphanumeric() || next == '_');
            text.match_indices(write).any(|(at, _)| ends_there(at + write.len()))
        };
        let writes = |text: &str, table: &str| {
            ["INSERT INTO", "UPDATE", "DELETE FROM"]
                .iter()
                .any(|verb| names_whole(text, &format!("{verb} {table}")))
        };
        texts
            .filter(|text| tables.iter().any(|table| writes(text, table)))
            .map(|text| {
                let query = text.split_once(r#""query": ""#).unwrap().1;
                let name = query.strip_prefix("-- ").and_then(|rest| rest.split_once("\\n"));
                name.unwrap_or_else(|| panic!("a statement has no name: {query}")).0.to_owned()
            })
            .collect()
    }

    #[test]
    fn every_statement_that_writes_what_somebody_waits_for_is_in_the_list() {
        let listed = ALL.iter().flat_map(|write| write.statements()).chain(&FREE_NOBODY);
        let listed: BTreeSet<String> = listed.map(|&name| name.to_owned()).collect();
        assert_eq!(writing(&WAITED_FOR), listed);
    }
}
