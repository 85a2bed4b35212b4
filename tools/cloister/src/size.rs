//! Amounts of memory as people write them: a number and a unit, `256M`, `2G`.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// An amount of memory in bytes. The unit (K, M or G, powers of 1024) is never left out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Size(pub(crate) u64);

const UNITS: [(char, u32); 3] = [('G', 30), ('M', 20), ('K', 10)];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is no amount of memory: a number and K, M or G, as in 256M");
        let unit = text.chars().last().ok_or_else(bad)?;
        let shift = UNITS
            .iter()
            .find_map(|&(letter, shift)| (letter == unit.to_ascii_uppercase()).then_some(shift));
        let (Some(shift), Some(digits)) = (shift, text.get(..text.len() - unit.len_utf8())) else {
            return Err(bad());
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        digits
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(1 << shift))
            .map(Self)
            .ok_or_else(|| format!("'{text}' is more memory than 64 bits can count"))
    }
}

/// The largest unit that shows the amount exactly, else one decimal of the largest that fits.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (letter, shift) in UNITS {
            let unit = 1_u64 << shift;
            if self.0 >= unit {
                let whole = self.0 >> shift;
                let tenths = (self.0 & (unit - 1)) * 10 / unit;
                return if self.0 & (unit - 1) == 0 {
                    write!(f, "{whole}{letter}")
                } else if self.0 & ((1 << 20) - 1) == 0 {
                    write!(f, "{}M", self.0 >> 20)
                } else {
                    write!(f, "{whole}.{tenths}{letter}")
                };
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount of memory in quotes, as in \"256M\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Size, E> {
                Err(E::custom(format_args!(
                    "{number} has no unit: write the amount in quotes, as in \"256M\""
                )))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::Size;

    #[test]
    fn a_number_with_a_unit_is_read() {
        assert_eq!("256M".parse(), Ok(Size(256 << 20)));
        assert_eq!("2G".parse(), Ok(Size(2 << 30)));
        assert_eq!("4k".parse(), Ok(Size(4096)));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "", "M", "256", "-1M", "1.5G", "12 M", "1T", "0x10M", "ΩM", "1é",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text:?} was read");
        }
        let error = "99999999999999G".parse::<Size>().unwrap_err();
        assert!(error.contains("64 bits"), "{error}");
    }

    #[test]
    fn shown_without_loss_where_it_is_whole() {
        assert_eq!(Size(256 << 20).to_string(), "256M");
        assert_eq!(Size(3 << 29).to_string(), "1536M");
        assert_eq!(Size(27_236_288).to_string(), "25.9M");
        assert_eq!(Size(12).to_string(), "12 bytes");
    }
}
