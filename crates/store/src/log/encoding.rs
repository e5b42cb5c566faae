//! The log's objects as bytes: what was written is what is read, or it is seen to be damaged.
//!
//! A record is JSON for people to read, and on a line below it the first eight bytes of its SHA-256. A snapshot, which is read at every
//! start, is MessagePack, compressed, between a line that says so and eight bytes of SHA-256. Logs from before either are read too.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

const SUM: usize = 8;
const MAGIC: &[u8] = b"perennial snapshot 1\n";
/// The quickest: what a start waits for is decoding.
const LEVEL: i32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum Damage {
    #[error("it is damaged: its checksum is {found}, and {said} was written")]
    Checksum { found: String, said: String },
    #[error("it is damaged: its checksum is cut off")]
    Cut,
    #[error("it is damaged: it is no JSON of ours, and older than checksums")]
    Json(#[source] serde_json::Error),
    #[error("it is whole, and says what this release does not know; start the release that wrote it, or a later one")]
    Unknown(#[source] Box<dyn std::error::Error + Send + Sync>),
}

fn sum(bytes: &[u8]) -> [u8; SUM] {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    digest[..SUM].try_into().expect("a digest is longer")
}

fn check(bytes: &[u8], said: &[u8]) -> Result<(), Damage> {
    let found = sum(bytes);
    match found == said {
        true => Ok(()),
        false => Err(Damage::Checksum { found: hex::encode(found), said: hex::encode(said) }),
    }
}

pub(super) fn record(value: &impl Serialize) -> Bytes {
    let mut bytes = serde_json::to_vec(value).expect("the domain's types have string keys and no failing serialiser");
    let line = format!("\n{}\n", hex::encode(sum(&bytes)));
    bytes.extend_from_slice(line.as_bytes());
    bytes.into()
}

pub(super) fn read_record<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Damage> {
    // JSON as we write it has no line break; a record from before has no line below it.
    let mut lines = bytes.split(|&byte| byte == b'\n');
    let json = lines.next().unwrap_or_default();
    let Some(line) = lines.next() else { return serde_json::from_slice(json).map_err(Damage::Json) };
    check(json, &hex::decode(line).map_err(|_| Damage::Cut)?)?;
    serde_json::from_slice(json).map_err(unknown)
}

pub(super) fn snapshot(value: &impl Serialize) -> Bytes {
    let plain = rmp_serde::to_vec_named(value).expect("the domain's types have no failing serialiser");
    let packed = zstd::encode_all(&*plain, LEVEL).expect("memory can be written to");
    [MAGIC, &packed, &sum(&packed)].concat().into()
}

pub(super) fn read_snapshot<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Damage> {
    let Some(rest) = bytes.strip_prefix(MAGIC) else { return serde_json::from_slice(bytes).map_err(Damage::Json) };
    let (packed, said) = rest.split_at_checked(rest.len().wrapping_sub(SUM)).ok_or(Damage::Cut)?;
    check(packed, said)?;
    rmp_serde::from_slice(&zstd::decode_all(packed).map_err(unknown)?).map_err(unknown)
}

fn unknown(error: impl std::error::Error + Send + Sync + 'static) -> Damage {
    Damage::Unknown(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::state::State;
    use serde_json::{Value, json};

    #[test]
    fn a_record_reads_back_and_any_changed_byte_shows() {
        let value = json!({"epoch": 3, "events": [{"text": "a\nb"}]});
        let bytes = record(&value);
        assert_eq!(read_record::<Value>(&bytes).unwrap(), value);
        for at in 0..bytes.len() - 1 {
            let mut changed = bytes.to_vec();
            changed[at] ^= 4;
            let read = read_record::<Value>(&changed);
            assert!(read.is_err(), "{at}: {read:?}");
        }
    }

    #[test]
    fn a_snapshot_reads_back_and_any_changed_byte_shows() {
        let value = json!({"head": {"number": 7}, "state": {"1": 0.1, "none": null, "list": [1, -2, u64::MAX]}});
        let bytes = snapshot(&value);
        assert_eq!(read_snapshot::<Value>(&bytes).unwrap(), value);
        for at in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 4;
            assert!(read_snapshot::<Value>(&changed).is_err(), "{at}");
        }
        for length in 0..bytes.len() {
            assert!(read_snapshot::<Value>(&bytes[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn what_was_written_before_checksums_is_read() {
        let value = json!({"epoch": 3});
        let plain = serde_json::to_vec(&value).unwrap();
        assert_eq!(read_record::<Value>(&plain).unwrap(), value);
        assert_eq!(read_snapshot::<Value>(&plain).unwrap(), value);
        assert!(read_snapshot::<State>(b"{\"pipelines\":{").is_err());
    }
}
