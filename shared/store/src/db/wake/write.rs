//! The list of which write wakes whom. The store itself announces a write after its commit, so that no caller can
//! forget it. A write that is not in this list wakes nobody: its waiters find it with their next poll.

use crate::db::connect::Store;
use crate::db::wake::Topic;

/// A write that somebody may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// A job was accepted that may run now.
    Accepted,
    /// A job was accepted that is to run later.
    AcceptedForLater,
    /// A leased job began to load or to work, with its claim or after it.
    Begun,
    /// A lease ended, and its job ended with it.
    Ended,
    /// A lease ended, and its job may be claimed again.
    HandedBack,
    /// A lease ended, and its job waits for its next attempt.
    PutOff,
    /// A lease was dropped because its job is gone. There is no event to announce.
    LeaseDropped,
    /// A job ended that no worker held: it was cancelled, it expired, or no host has its model.
    EndedUnclaimed,
    /// A lease was marked for its holder to cancel.
    CancelAsked,
    /// Scheduled jobs became ready.
    Promoted,
    /// The jobs and hosts of dead workers became free.
    Rescued,
    /// The relay made webhooks of events.
    Relayed,
    /// A webhook ended unsent, so the next webhook of its job may be sent.
    GivenUpUnsent,
    /// A webhook ended that is not its job's last, so the next one may be sent; or a webhook got the time of its next
    /// attempt.
    Reported,
    /// Somebody asked for a webhook to be sent now, or for those that an endpoint had missed.
    Redelivered,
    /// An endpoint was enabled, deleted, or has another URL or limit, so its webhooks may be sent.
    EndpointChanged,
    /// A host has no holder any more.
    HostFreed,
    /// A host was drained, or takes jobs again.
    DrainChanged,
    /// Hosts are to unload a model.
    UnloadAsked,
    /// A host published its models, or its Ollama does not answer.
    Published,
}

impl Write {
    /// The topics whose waiters this write may concern.
    const fn frees(self) -> &'static [Topic] {
        use Topic::{Cancel, Delivery, Host, Job, Lane, Outbox, Published, Ready, Scheduled};
        match self {
            Self::Accepted => &[Ready, Outbox],
            // A `run_at` that has passed makes the job ready at once.
            Self::AcceptedForLater => &[Ready, Scheduled, Outbox],
            Self::Begun | Self::Ended | Self::EndedUnclaimed => &[Outbox, Job],
            Self::HandedBack => &[Ready, Outbox, Job],
            Self::PutOff => &[Scheduled, Outbox, Job],
            Self::LeaseDropped => &[Job],
            Self::CancelAsked => &[Cancel],
            Self::Promoted => &[Ready],
            Self::Rescued => &[Ready, Outbox, Job, Host],
            // Each dispatcher knows where its reports free something, and finds what the relay made by the ids.
            Self::Relayed | Self::Reported => &[Delivery],
            Self::GivenUpUnsent | Self::Redelivered | Self::EndpointChanged => &[Delivery, Lane],
            Self::HostFreed | Self::UnloadAsked => &[Host],
            // An api tells whoever waits which models a host takes jobs of.
            Self::DrainChanged => &[Host, Published],
            Self::Published => &[Published],
        }
    }

    /// The names of the statements that make this write.
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
            Self::Redelivered => &["bring_forward", "deliver_again", "recover_deliveries"],
            Self::EndpointChanged => &["change_endpoint", "delete_endpoint"],
            Self::HostFreed => &["release_host", "deregister_worker"],
            Self::DrainChanged => &["drain_host", "resume_host"],
            Self::UnloadAsked => &["ask_for_unload"],
            Self::Published => &["publish_models", "note_unreachable"],
        }
    }
}

impl Store {
    /// Wakes whoever may wait for these writes. Call this after their commit.
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

    const ALL: [Write; 20] = [
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
        Write::EndpointChanged,
        Write::HostFreed,
        Write::DrainChanged,
        Write::UnloadAsked,
        Write::Published,
    ];

    /// Tables whose rows are work for somebody, or decide who may do work.
    const WAITED_FOR: [&str; 11] = [
        "job_ready",
        "job_scheduled",
        "job_lease",
        "job_done",
        "outbox",
        "webhook_delivery",
        "webhook_endpoint",
        "host",
        "host_model",
        "host_unload",
        "worker",
    ];

    /// Statements that write to these tables and need wake nobody: they only record that a worker or sender is there or goes
    /// on, or that work is done, concern an endpoint for which nothing waits or which may be sent to before and after, or
    /// encrypt a secret anew.
    const FREE_NOBODY: [&str; 10] = [
        "register_worker",
        "renew_worker",
        "introduce_host",
        "take_host",
        "forget_unload",
        "extend_claim",
        "create_endpoint",
        "rotate_endpoint",
        "prune_endpoints",
        "write_resealed",
    ];

    /// The names of all statements that write to one of these tables, read from the output of `shared/store/prepare`.
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
