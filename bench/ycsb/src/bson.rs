//! BSON (bsonspec.org, version 1.1), as far as the commands need it.

/// Bytes of a message being made. What does not fit is dropped, and the message is none.
#[derive(Debug)]
pub(crate) struct Buffer<'a> {
    bytes: &'a mut [u8],
    length: usize,
    overflow: bool,
}

/// Where a document begins that is not closed yet.
#[derive(Debug)]
#[must_use]
pub(crate) struct Open(usize);

impl<'a> Buffer<'a> {
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        Self {
            bytes,
            length: 0,
            overflow: false,
        }
    }

    /// All of it, if it fitted.
    pub(crate) fn finish(self) -> Option<&'a [u8]> {
        self.bytes.get(..self.length).filter(|_| !self.overflow)
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let end = self.length.saturating_add(bytes.len());
        match self.bytes.get_mut(self.length..end) {
            Some(to) => {
                to.copy_from_slice(bytes);
                self.length = end;
            }
            None => self.overflow = true,
        }
    }

    pub(crate) fn number(&mut self, number: i32) {
        self.bytes(&number.to_le_bytes());
    }

    /// Writes the number of bytes since `at` there.
    pub(crate) fn measure(&mut self, at: usize) {
        let length = (self.length.saturating_sub(at) as u32).to_le_bytes();
        if let Some(to) = self.bytes.get_mut(at..at.saturating_add(4)) {
            to.copy_from_slice(&length);
        }
    }

    /// Begins a document that is no element of another.
    pub(crate) fn document(&mut self) -> Open {
        let open = Open(self.length);
        self.number(0);
        open
    }

    pub(crate) fn close(&mut self, open: &Open) {
        self.bytes(&[0]);
        self.measure(open.0);
    }

    fn name(&mut self, kind: u8, name: &[u8]) {
        self.bytes(&[kind]);
        self.bytes(name);
        self.bytes(&[0]);
    }

    pub(crate) fn string(&mut self, name: &[u8], value: &[u8]) {
        self.name(0x02, name);
        self.number(value.len() as i32 + 1);
        self.bytes(value);
        self.bytes(&[0]);
    }

    pub(crate) fn int32(&mut self, name: &[u8], value: i32) {
        self.name(0x10, name);
        self.number(value);
    }

    pub(crate) fn boolean(&mut self, name: &[u8], value: bool) {
        self.name(0x08, name);
        self.bytes(&[u8::from(value)]);
    }

    /// Begins a document in the document.
    pub(crate) fn element(&mut self, name: &[u8]) -> Open {
        self.name(0x03, name);
        self.document()
    }

    /// Begins an array, which is a document whose names are 0, 1, 2...
    pub(crate) fn array(&mut self, name: &[u8]) -> Open {
        self.name(0x04, name);
        self.document()
    }
}

/// An element's value.
#[derive(PartialEq, Debug)]
pub(crate) enum Value<'a> {
    /// A double, or an integer of either size.
    Number(i64),
    String(&'a [u8]),
    /// A document or an array.
    Document(&'a [u8]),
    Other,
}

/// Takes `count` bytes from the front.
fn take<'a>(from: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(count)?;
    *from = rest;
    Some(taken)
}

fn length(from: &[u8]) -> Option<usize> {
    let bytes = from.first_chunk::<4>()?;
    usize::try_from(i32::from_le_bytes(*bytes)).ok()
}

/// The elements of a document, up to the first that is not understood.
#[derive(Debug)]
pub(crate) struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    /// Those of `document`; none if its length is not its own.
    pub(crate) fn of(document: &'a [u8]) -> Self {
        let whole = length(document).is_some_and(|length| length == document.len());
        let inner = document
            .len()
            .checked_sub(1)
            .and_then(|end| document.get(4..end));
        Self(inner.filter(|_| whole).unwrap_or_default())
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = (&'a [u8], Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &mut self.0;
        let kind = *take(rest, 1)?.first()?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        let name = take(rest, end)?;
        take(rest, 1)?;
        let value = match kind {
            0x01 => Value::Number(f64::from_le_bytes(*take(rest, 8)?.first_chunk()?) as i64),
            0x10 => Value::Number(i32::from_le_bytes(*take(rest, 4)?.first_chunk()?).into()),
            0x12 => Value::Number(i64::from_le_bytes(*take(rest, 8)?.first_chunk()?)),
            0x02 => {
                let length = length(take(rest, 4)?)?;
                Value::String(take(rest, length)?.split_last()?.1)
            }
            0x03 | 0x04 => {
                let length = length(rest)?;
                Value::Document(take(rest, length)?)
            }
            // Binary: length, kind, bytes.
            0x05 => {
                let length = length(take(rest, 4)?)?;
                take(rest, length.checked_add(1)?)?;
                Value::Other
            }
            // undefined, null; boolean; datetime, timestamp; ObjectId; decimal128
            0x06 | 0x0a => Value::Other,
            0x08 => take(rest, 1).map(|_| Value::Other)?,
            0x09 | 0x11 => take(rest, 8).map(|_| Value::Other)?,
            0x07 => take(rest, 12).map(|_| Value::Other)?,
            0x13 => take(rest, 16).map(|_| Value::Other)?,
            _ => return None,
        };
        Some((name, value))
    }
}

/// The value of `name`.
pub(crate) fn find<'a>(document: &'a [u8], name: &[u8]) -> Option<Value<'a>> {
    Elements::of(document)
        .find(|(each, _)| *each == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(bytes: &mut [u8]) -> Option<&[u8]> {
        let mut buffer = Buffer::new(bytes);
        let all = buffer.document();
        buffer.string(b"hello", b"world");
        let inner = buffer.element(b"in");
        buffer.int32(b"n", 7);
        buffer.close(&inner);
        buffer.boolean(b"b", true);
        buffer.close(&all);
        buffer.finish()
    }

    #[test]
    fn a_document_has_the_bytes_of_the_specification() {
        let mut bytes = [0; 64];
        let mut buffer = Buffer::new(&mut bytes);
        let all = buffer.document();
        buffer.string(b"hello", b"world");
        buffer.close(&all);
        // The first example of bsonspec.org.
        let want = b"\x16\0\0\0\x02hello\0\x06\0\0\0world\0\0";
        assert_eq!(buffer.finish(), Some(&want[..]));
    }

    #[test]
    fn what_was_written_is_found() {
        let mut bytes = [0; 64];
        let document = sample(&mut bytes).unwrap();
        assert_eq!(find(document, b"hello"), Some(Value::String(b"world")));
        let Some(Value::Document(inner)) = find(document, b"in") else {
            panic!()
        };
        assert_eq!(find(inner, b"n"), Some(Value::Number(7)));
        assert_eq!(find(document, b"b"), Some(Value::Other));
        assert_eq!(find(document, b"c"), None);
        let double = b"\x10\0\0\0\x01ok\0\0\0\0\0\0\0\xf0\x3f\0";
        assert_eq!(find(&double[..], b"ok"), None, "its length is not its own");
        let double = b"\x11\0\0\0\x01ok\0\0\0\0\0\0\0\xf0\x3f\0";
        assert_eq!(find(&double[..], b"ok"), Some(Value::Number(1)));
    }

    #[test]
    fn a_document_that_is_cut_off_or_changed_ends_and_panics_nobody() {
        let mut bytes = [0; 64];
        let document = sample(&mut bytes).unwrap().to_vec();
        for cut in 0..document.len() {
            assert_eq!(Elements::of(&document[..cut]).count(), 0);
        }
        for at in 0..document.len() {
            for value in [0, 1, 5, 0x7f, 0xff] {
                let mut changed = document.clone();
                changed[at] = value;
                assert!(Elements::of(&changed).count() <= document.len());
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_no_message() {
        for size in 0..50 {
            let mut bytes = vec![0; size];
            assert_eq!(sample(&mut bytes).is_some(), size >= 42, "{size}");
        }
    }
}
