//! What the pages of a Parquet column say that they become, before anything is made of them.
//!
//! The decoder allocates what a page's header claims, up to 2 GiB, and a page that compresses well may well become that.
//! Only the headers are read here; one that does not parse ends the column, as it will end its decoding.

use std::io::{self, Read};

use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::ChunkReader;

/// A page of up to so many bytes may have any size in the file.
const FREE: u64 = 64 << 20;
/// Bytes that one byte of a larger page may become.
pub(super) const RATIO: u64 = 16;
/// Structs in structs: a page's header has two levels.
const DEPTH: u8 = 8;

/// The largest page of a column, in bytes once it is unpacked; or the claim that none may make.
pub(super) fn largest<R: ChunkReader>(file: &R, column: &ColumnChunkMetaData) -> Result<u64, u64> {
    let (start, length) = column.byte_range();
    let end = start.saturating_add(length).min(file.len());
    let (mut at, mut largest) = (start, 0);
    while at < end {
        let Ok(page) = file.get_read(at).map_err(io::Error::other).and_then(|source| header(source.take(end - at)))
        else {
            break;
        };
        if page.becomes > FREE.max(page.takes.min(end - at).saturating_mul(RATIO)) {
            return Err(page.becomes);
        }
        largest = largest.max(page.becomes);
        at = at.saturating_add(page.header).saturating_add(page.takes);
    }
    Ok(largest)
}

/// Bytes of a page's parts.
#[derive(Debug, PartialEq)]
struct Page {
    header: u64,
    takes: u64,
    becomes: u64,
}

fn header(source: impl Read) -> io::Result<Page> {
    let mut thrift = Thrift { source, read: 0 };
    let mut sizes = [None; 2];
    let mut id = 0;
    while let Some((kind, delta)) = thrift.field()? {
        id = if delta == 0 { thrift.integer()? } else { id + i64::from(delta) };
        match (id, kind) {
            (2 | 3, Thrift::<&[u8]>::I32) => sizes[id as usize - 2] = u64::try_from(thrift.integer()?).ok(),
            _ => thrift.skip(kind, DEPTH)?,
        }
    }
    let [Some(becomes), Some(takes)] = sizes else { return Err(io::ErrorKind::InvalidData.into()) };
    Ok(Page { header: thrift.read, takes, becomes })
}

/// Thrift's compact protocol, as far as a page's header needs it.
struct Thrift<R> {
    source: R,
    read: u64,
}

impl<R: Read> Thrift<R> {
    const I32: u8 = 5;

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.source.read_exact(&mut byte)?;
        self.read += 1;
        Ok(byte[0])
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }

    fn integer(&mut self) -> io::Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The kind of a struct's next field, and how far its id lies from the one before it: 0 where the id follows.
    fn field(&mut self) -> io::Result<Option<(u8, u8)>> {
        let head = self.byte()?;
        Ok((head != 0).then_some((head & 0x0f, head >> 4)))
    }

    fn bytes(&mut self, count: u64) -> io::Result<()> {
        let copied = io::copy(&mut self.source.by_ref().take(count), &mut io::sink())?;
        self.read += copied;
        if copied == count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn skip(&mut self, kind: u8, depth: u8) -> io::Result<()> {
        match kind {
            // A boolean is its kind.
            1 | 2 => Ok(()),
            3 => self.bytes(1),
            4..=6 => self.varint().map(drop),
            7 => self.bytes(8),
            8 => self.varint().and_then(|count| self.bytes(count)),
            12 if depth > 0 => {
                while let Some((kind, delta)) = self.field()? {
                    if delta == 0 {
                        self.integer()?;
                    }
                    self.skip(kind, depth - 1)?;
                }
                Ok(())
            }
            // Lists and maps are in no header.
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
