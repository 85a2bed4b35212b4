//! YCSB's records, and workload A's commands.

use crate::bson::{Buffer, Elements, Value, find};
use crate::choice::{Random, hash};
use crate::wire;

/// YCSB's defaults.
pub(crate) const RECORDS: u64 = 1000;
const FIELDS: u64 = 10;
const FIELD_BYTES: usize = 100;
/// Records in one command when they are stored.
pub(crate) const BATCH: u64 = 50;
/// The collection.
const TABLE: &[u8] = b"usertable";

/// A number in decimal.
#[derive(Debug)]
pub(crate) struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    pub(crate) fn new(mut number: u64) -> Self {
        let mut decimal = Self {
            digits: [b'0'; 20],
            start: 19,
        };
        for (at, digit) in decimal.digits.iter_mut().enumerate().rev() {
            *digit = b'0' + (number % 10) as u8;
            decimal.start = at;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        decimal
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.digits.get(self.start..).unwrap_or_default()
    }
}

/// `prefix` and a number.
fn numbered<'a>(to: &'a mut [u8; 32], prefix: &[u8], number: u64) -> &'a [u8] {
    let mut length = 0;
    let decimal = Decimal::new(number);
    for (to, from) in to.iter_mut().zip(prefix.iter().chain(decimal.bytes())) {
        *to = *from;
        length += 1;
    }
    to.get(..length).unwrap_or_default()
}

/// The key of record `number`, as YCSB makes it.
fn key(to: &mut [u8; 32], number: u64) -> &[u8] {
    numbered(to, b"user", (hash(number) as i64).unsigned_abs())
}

fn field(buffer: &mut Buffer<'_>, number: u64, random: &mut Random) {
    let (mut name, mut value) = ([0; 32], [0; FIELD_BYTES]);
    for part in value.chunks_mut(8) {
        for (to, byte) in part.iter_mut().zip(random.next().to_le_bytes()) {
            *to = b'0' + byte % 64;
        }
    }
    buffer.string(numbered(&mut name, b"field", number), &value);
}

/// Stores records `first` and the `BATCH - 1` that follow.
pub(crate) fn insert(buffer: &mut Buffer<'_>, first: u64, random: &mut Random) {
    buffer.string(b"insert", TABLE);
    let documents = buffer.array(b"documents");
    for index in 0..BATCH {
        let mut name = [0; 32];
        let document = buffer.element(Decimal::new(index).bytes());
        buffer.string(b"_id", key(&mut name, first + index));
        for number in 0..FIELDS {
            field(buffer, number, random);
        }
        buffer.close(&document);
    }
    buffer.close(&documents);
}

/// What is done to a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    Read,
    Update,
}

impl Operation {
    /// Workload A: as many reads as updates.
    pub(crate) fn choose(random: &mut Random) -> Self {
        match random.below(2) {
            0 => Self::Read,
            _ => Self::Update,
        }
    }

    /// The command.
    pub(crate) fn write(self, buffer: &mut Buffer<'_>, record: u64, random: &mut Random) {
        let mut name = [0; 32];
        let key = key(&mut name, record);
        match self {
            Self::Read => {
                buffer.string(b"find", TABLE);
                let filter = buffer.element(b"filter");
                buffer.string(b"_id", key);
                buffer.close(&filter);
                buffer.int32(b"limit", 1);
                buffer.boolean(b"singleBatch", true);
            }
            Self::Update => {
                buffer.string(b"update", TABLE);
                let updates = buffer.array(b"updates");
                let update = buffer.element(b"0");
                let query = buffer.element(b"q");
                buffer.string(b"_id", key);
                buffer.close(&query);
                let change = buffer.element(b"u");
                let set = buffer.element(b"$set");
                let number = random.below(FIELDS);
                field(buffer, number, random);
                buffer.close(&set);
                buffer.close(&change);
                buffer.close(&update);
                buffer.close(&updates);
            }
        }
    }

    /// Whether the answer says that it was done, to that very record.
    pub(crate) fn is_done(self, answer: &[u8], record: u64) -> bool {
        match self {
            Self::Read => read(answer, record).is_some(),
            Self::Update => wire::count(answer, b"n") == Some(1),
        }
    }
}

/// Whether the answer has the record, with all its fields.
fn read(answer: &[u8], record: u64) -> Option<()> {
    let Value::Document(cursor) = find(answer, b"cursor")? else {
        return None;
    };
    let Value::Document(batch) = find(cursor, b"firstBatch")? else {
        return None;
    };
    let Value::Document(document) = find(batch, b"0")? else {
        return None;
    };
    let mut name = [0; 32];
    let this = find(document, b"_id")? == Value::String(key(&mut name, record));
    let fields = Elements::of(document).filter(
        |(name, value)| matches!(value, Value::String(text) if text.len() == FIELD_BYTES && name.starts_with(b"field")),
    );
    (this && fields.count() as u64 == FIELDS).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(record: u64, fields: u64) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let mut buffer = Buffer::new(&mut bytes);
        let mut random = Random::new(1);
        let all = buffer.document();
        let cursor = buffer.element(b"cursor");
        let batch = buffer.array(b"firstBatch");
        let document = buffer.element(b"0");
        let mut name = [0; 32];
        buffer.string(b"_id", key(&mut name, record));
        for number in 0..fields {
            field(&mut buffer, number, &mut random);
        }
        for open in [&document, &batch, &cursor] {
            buffer.close(open);
        }
        buffer.int32(b"ok", 1);
        buffer.close(&all);
        buffer.finish().unwrap().to_vec()
    }

    #[test]
    fn a_read_wants_the_record_and_all_of_it() {
        assert!(Operation::Read.is_done(&found(7, FIELDS), 7));
        assert!(!Operation::Read.is_done(&found(7, FIELDS), 8));
        assert!(!Operation::Read.is_done(&found(7, FIELDS - 1), 7));
        assert!(!Operation::Read.is_done(b"", 7));
    }

    #[test]
    fn an_update_wants_one_record_changed() {
        let answer = |n: i32, ok: i32| {
            let mut bytes = vec![0; 64];
            let mut buffer = Buffer::new(&mut bytes);
            let all = buffer.document();
            buffer.int32(b"n", n);
            buffer.int32(b"ok", ok);
            buffer.close(&all);
            buffer.finish().unwrap().to_vec()
        };
        assert!(Operation::Update.is_done(&answer(1, 1), 7));
        assert!(!Operation::Update.is_done(&answer(0, 1), 7));
        assert!(!Operation::Update.is_done(&answer(1, 0), 7));
    }

    #[test]
    fn keys_are_unlike_each_other_and_commands_fit() {
        let mut names: Vec<Vec<u8>> = (0..RECORDS)
            .map(|n| key(&mut [0; 32], n).to_vec())
            .collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len() as u64, RECORDS);
        let mut random = Random::new(1);
        let mut bytes = vec![0; 1 << 17];
        assert!(wire::message(&mut bytes, 1, |b| insert(b, 0, &mut random)).is_some());
        for operation in [Operation::Read, Operation::Update] {
            let command = wire::message(&mut bytes, 1, |b| operation.write(b, 7, &mut random));
            assert!(command.is_some_and(|command| command.windows(4).any(|w| w == b"user")));
        }
        assert_eq!(RECORDS % BATCH, 0);
        assert_eq!(Decimal::new(0).bytes(), b"0");
        assert_eq!(Decimal::new(u64::MAX).bytes(), b"18446744073709551615");
    }

    #[test]
    fn half_of_all_operations_are_reads() {
        let mut random = Random::new(1);
        let reads = (0..10_000).filter(|_| Operation::choose(&mut random) == Operation::Read);
        assert!((4800..5200).contains(&reads.count()));
    }
}
