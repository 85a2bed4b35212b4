//! MongoDB's wire protocol: OP_MSG with one document (MongoDB manual, "MongoDB Wire Protocol").

use crate::bson::{Buffer, Value, find};

/// Of the header: length, request, the request answered, operation.
const HEADER: usize = 16;
/// The operation.
const OP_MSG: i32 = 2013;

/// A message for `request`; `write` writes its document's elements. None if it does not fit.
pub(crate) fn message(
    bytes: &mut [u8],
    request: i32,
    write: impl FnOnce(&mut Buffer<'_>),
) -> Option<&[u8]> {
    let mut buffer = Buffer::new(bytes);
    for number in [0, request, 0, OP_MSG, 0] {
        buffer.number(number);
    }
    // A section that is the command's document.
    buffer.bytes(&[0]);
    let document = buffer.document();
    write(&mut buffer);
    buffer.string(b"$db", b"ycsb");
    buffer.close(&document);
    buffer.measure(0);
    buffer.finish()
}

/// The length of the message whose first bytes these are.
pub(crate) fn length(bytes: [u8; 4]) -> Option<usize> {
    let length = usize::try_from(i32::from_le_bytes(bytes)).ok()?;
    (length > HEADER).then_some(length)
}

/// The document of an answer to `request`.
pub(crate) fn answer(message: &[u8], request: i32) -> Option<&[u8]> {
    let number = |at: usize| {
        let bytes = message.get(at..)?.first_chunk()?;
        Some(i32::from_le_bytes(*bytes))
    };
    if number(8)? != request || number(12)? != OP_MSG || *message.get(HEADER + 4)? != 0 {
        return None;
    }
    let document = message.get(HEADER + 5..)?;
    // A checksum may follow.
    let length = usize::try_from(number(HEADER + 5)?).ok()?;
    document.get(..length)
}

/// The answer's number called `name`, if the command succeeded.
pub(crate) fn count(answer: &[u8], name: &[u8]) -> Option<i64> {
    match (find(answer, b"ok")?, find(answer, name)?) {
        (Value::Number(1), Value::Number(count)) => Some(count),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(request: i32) -> Vec<u8> {
        let mut bytes = [0; 128];
        let write = |buffer: &mut Buffer<'_>| {
            buffer.int32(b"n", 3);
            buffer.int32(b"ok", 1);
        };
        let mut reply = message(&mut bytes, 9, write).unwrap().to_vec();
        reply[8..12].copy_from_slice(&request.to_le_bytes());
        reply
    }

    #[test]
    fn a_message_has_header_flags_and_one_section() {
        let reply = reply(5);
        let first = reply.first_chunk().unwrap();
        assert_eq!(length(*first), Some(reply.len()));
        assert_eq!(&reply[12..21], b"\xdd\x07\0\0\0\0\0\0\0");
        let document = answer(&reply, 5).unwrap();
        assert_eq!(count(document, b"n"), Some(3));
        assert_eq!(find(document, b"$db"), Some(Value::String(b"ycsb")));
    }

    #[test]
    fn an_answer_to_something_else_or_a_failure_is_none() {
        let good = reply(5);
        assert_eq!(answer(&good, 6), None);
        for cut in 0..good.len() {
            assert_eq!(answer(&good[..cut], 5), None);
        }
        let mut failed = good.clone();
        let ok = good.windows(3).position(|w| w == b"ok\0").unwrap() + 3;
        failed[ok] = 0;
        assert_eq!(count(answer(&failed, 5).unwrap(), b"n"), None);
        assert_eq!(length([16, 0, 0, 0]), None);
        assert_eq!(length([0xff; 4]), None);
    }
}
