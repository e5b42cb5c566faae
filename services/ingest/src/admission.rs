//! How much each client and each namespace may push at a time, so that none takes the others' turn.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use domain::id::Namespace;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::Error;

/// Of one client or one namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Pushes and registrations under way; more are told to come back.
    pub pushes: u32,
    /// None: as many as come. A faster push is slowed down.
    pub bytes_per_second: Option<u64>,
}

impl Allowance {
    pub const UNLIMITED: Self = Self { pushes: u32::MAX, bytes_per_second: None };
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    Client(IpAddr),
    Namespace(Namespace),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(address) => write!(f, "client {address}"),
            Self::Namespace(namespace) => write!(f, "namespace `{namespace}`"),
        }
    }
}

pub struct Admission {
    client: Rule,
    namespace: Rule,
    under_way: Arc<Mutex<HashMap<Who, u32>>>,
}

struct Rule {
    pushes: u32,
    pace: Option<DefaultKeyedRateLimiter<Who>>,
}

/// What paces count in.
const UNIT: u64 = 1024;

impl Rule {
    /// A second's worth may come at once, and a whole frame always.
    fn new(allowance: Allowance, frame: usize) -> Self {
        let units = |bytes: u64| NonZeroU32::new(u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).max(1));
        let quota = |bytes: u64| {
            let (rate, frame) = (units(bytes)?, units(frame as u64)?);
            Some(Quota::per_second(rate).allow_burst(rate.max(frame)))
        };
        let pace = allowance.bytes_per_second.and_then(quota).map(RateLimiter::keyed);
        Self { pushes: allowance.pushes, pace }
    }
}

impl Admission {
    /// `frame`: bytes of the largest.
    pub fn new(client: Allowance, namespace: Allowance, frame: usize) -> Self {
        let under_way = Arc::default();
        Self { client: Rule::new(client, frame), namespace: Rule::new(namespace, frame), under_way }
    }

    /// Counts a push until its turn is dropped. `client` is None where its address is not known.
    pub fn enter(&self, client: Option<IpAddr>, namespace: &Namespace) -> Result<Turn, Error> {
        let client = client.map(|address| (Who::Client(address), self.client.pushes));
        let namespace = (Who::Namespace(namespace.clone()), self.namespace.pushes);
        let rules: Vec<(Who, u32)> = client.into_iter().chain([namespace]).collect();
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |(who, most): &&(Who, u32)| under_way.get(who).is_some_and(|count| count >= most);
        if let Some((who, most)) = rules.iter().find(full) {
            return Err(Error::Busy { who: who.clone(), most: *most });
        }
        let whose: Vec<Who> = rules.into_iter().map(|(who, _)| who).collect();
        for who in &whose {
            *under_way.entry(who.clone()).or_default() += 1;
        }
        drop(under_way);
        Ok(Turn { whose, under_way: self.under_way.clone() })
    }

    /// Waits until so many bytes may have come.
    pub async fn pace(&self, turn: &Turn, bytes: usize) {
        let Some(units) = u32::try_from((bytes as u64).div_ceil(UNIT)).ok().and_then(NonZeroU32::new) else { return };
        for who in &turn.whose {
            let rule = if matches!(who, Who::Client(_)) { &self.client } else { &self.namespace };
            if let Some(pace) = &rule.pace {
                // A frame is within every quota: there is nothing to refuse.
                let _ = pace.until_key_n_ready(who, units).await;
            }
        }
    }
}

/// A push under way.
pub struct Turn {
    whose: Vec<Who>,
    under_way: Arc<Mutex<HashMap<Who, u32>>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        for who in &self.whose {
            let left = under_way.get(who).map_or(0, |count| count - 1);
            match left {
                0 => drop(under_way.remove(who)),
                left => drop(under_way.insert(who.clone(), left)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn client(last: u8) -> Option<IpAddr> {
        Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)))
    }

    #[test]
    fn a_full_client_or_namespace_is_told_so_and_takes_nobody_elses_turn() {
        let most = |pushes| Allowance { pushes, ..Allowance::UNLIMITED };
        let admission = Admission::new(most(2), most(3), 1);
        let (one, two): (Namespace, Namespace) = ("one".parse().unwrap(), "two".parse().unwrap());
        let refused = |client, namespace| admission.enter(client, namespace).err().unwrap().to_string();
        let mut turns = vec![admission.enter(client(1), &one).unwrap(), admission.enter(client(1), &one).unwrap()];
        assert!(refused(client(1), &two).starts_with("client 10.0.0.1 has 2 pushes under way"));
        turns.push(admission.enter(client(2), &one).unwrap());
        assert!(refused(client(3), &one).starts_with("namespace `one` has 3 pushes under way"));
        // Who was refused for the one limit did not count for the other.
        let other = (admission.enter(client(3), &two).unwrap(), admission.enter(client(3), &two).unwrap());
        turns.clear();
        drop(other);
        assert!(admission.under_way.lock().unwrap().is_empty());
        assert!(admission.enter(None, &one).is_ok());
    }

    #[tokio::test]
    async fn a_pace_is_kept_for_each_on_its_own() {
        let slow = Allowance { pushes: 9, bytes_per_second: Some(1024) };
        let admission = Admission::new(slow, Allowance::UNLIMITED, 2048);
        let namespace: Namespace = "one".parse().unwrap();
        let (one, two) =
            (admission.enter(client(1), &namespace).unwrap(), admission.enter(client(2), &namespace).unwrap());
        admission.pace(&one, 2048).await;
        let mut again = Box::pin(admission.pace(&one, 1));
        assert!(futures::poll!(&mut again).is_pending());
        admission.pace(&two, 2048).await;
    }
}
