//! What clients were told, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use perennial_proto::v1;

use crate::linear::{Call, Did};
use crate::world::World;

pub const ALIASES: [&str; 2] = ["champion", "challenger"];

/// A chunk that a client knows to be recorded.
#[derive(Clone, Debug)]
pub struct Ack {
    pub producer: String,
    pub sequence: u64,
    /// Of the payload.
    pub sha256: String,
    /// See [`World::moment`].
    pub moment: u64,
}

#[derive(Default)]
pub struct History {
    told: Mutex<Told>,
}

#[derive(Clone, Default)]
pub struct Told {
    pub acks: Vec<Ack>,
    /// Payloads that were sent, whole or not.
    pub sent: BTreeSet<String>,
    /// Calls by alias.
    pub calls: BTreeMap<&'static str, Vec<Call>>,
    /// Weights by version.
    pub versions: BTreeMap<u64, String>,
    pub runs: BTreeSet<u64>,
    /// The last by producer.
    pub epochs: BTreeMap<String, u64>,
}

impl History {
    pub fn told(&self) -> Told {
        self.told.lock().unwrap().clone()
    }

    pub fn sent(&self, sha256: &str) {
        self.told.lock().unwrap().sent.insert(sha256.to_owned());
    }

    pub fn acked(&self, world: &World, producer: &str, sequence: u64, sha256: String) {
        let ack = Ack { producer: producer.to_owned(), sequence, sha256, moment: world.moment() };
        self.told.lock().unwrap().acks.push(ack);
    }

    pub fn called(&self, world: &World, alias: &'static str, began: u64, did: Did) {
        world.note("history", format!("{alias}: {did:?} since {began}"));
        let call = Call { did, began, ended: world.moment() };
        self.told.lock().unwrap().calls.entry(alias).or_default().push(call);
    }

    pub fn opened(&self, producer: &str, epoch: u64) {
        self.told.lock().unwrap().epochs.insert(producer.to_owned(), epoch);
    }

    pub fn started(&self, world: &World, run: u64) {
        if !self.told.lock().unwrap().runs.insert(run) {
            world.broken(format!("run {run} was started twice"));
        }
    }

    /// A version that somebody saw is whole, from the first moment on, unless it may have been retired since, and stays what it
    /// is.
    pub async fn saw(&self, world: &World, version: &v1::Version) {
        let stays = world.setting.versions_kept.is_none();
        for file in version.files.iter().filter(|_| stays) {
            let found = world.bucket.look(&file.path).await;
            if found.map(|bytes| store::objects::sha256(&bytes)).as_ref() != Some(&file.sha256) {
                world
                    .broken(format!("version {} is visible and {} is not there as it says", version.number, file.path));
            }
        }
        if version.files.is_empty() || version.verdict != "PASS" {
            world.broken(format!("version {} has no files, or did not pass its gate", version.number));
        }
        let mut told = self.told.lock().unwrap();
        let known = told.versions.entry(version.number).or_insert(version.weights_sha256.clone());
        if *known != version.weights_sha256 {
            world.broken(format!("version {} was another one before", version.number));
        }
    }
}
