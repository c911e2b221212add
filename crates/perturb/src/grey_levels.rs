//! Changes of pixels in whole grey levels.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// A change of a pixel: 1 to 255 grey levels of 255. Specs write it `"8/255"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(
    try_from = "String",
    into = "String",
    extend("pattern" = "^[0-9]+ */255$", "examples" = ["8/255"]),
)]
pub struct GreyLevels(u8);

impl GreyLevels {
    /// A change of `levels` grey levels; `None` for 0.
    #[must_use]
    pub const fn new(levels: u8) -> Option<Self> {
        if levels == 0 { None } else { Some(Self(levels)) }
    }

    /// The number of grey levels.
    #[must_use]
    pub fn levels(self) -> u8 {
        self.0
    }

    /// The change for pixels in `[0, 1]`.
    #[must_use]
    pub fn as_pixel(self) -> f32 {
        f32::from(self.0) / 255.0
    }
}

impl fmt::Display for GreyLevels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/255", self.0)
    }
}

impl Serialize for GreyLevels {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GreyLevels {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Visitor)
    }
}

struct Visitor;

impl Visitor {
    /// Refuses a bare number, which could be a fraction of 1 or a number of grey levels.
    fn bare<E: de::Error>(number: impl fmt::Display) -> Result<GreyLevels, E> {
        Err(E::custom(format!("is {number}; expected grey levels as a fraction of 255, such as \"8/255\"")))
    }
}

impl de::Visitor<'_> for Visitor {
    type Value = GreyLevels;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("grey levels as a fraction of 255, such as \"8/255\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<GreyLevels, E> {
        let levels = text.strip_suffix("/255").and_then(|levels| levels.trim().parse().ok());
        levels.and_then(GreyLevels::new).ok_or_else(|| {
            let expected = "grey levels as a fraction of 255, from \"1/255\", at least 1 grey level, to \"255/255\"";
            E::custom(format!("is \"{text}\"; expected {expected}"))
        })
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<GreyLevels, E> {
        Self::bare(number)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<GreyLevels, E> {
        Self::bare(number)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<GreyLevels, E> {
        Self::bare(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_fractions_of_255() {
        let read = |json: &str| serde_json::from_str::<GreyLevels>(json).map_err(|e| e.to_string());
        let eight = read("\"8/255\"").unwrap();
        assert_eq!((eight.levels(), eight.as_pixel()), (8, 8.0 / 255.0));
        assert_eq!(serde_json::to_string(&eight).unwrap(), "\"8/255\"");
        for bad in ["\"0/255\"", "\"256/255\"", "\"-1/255\"", "\"8\"", "\"8/256\"", "8", "-8", "0.03", "true"] {
            let message = read(bad).unwrap_err();
            assert!(message.contains("expected grey levels as a fraction of 255"), "{bad}: {message}");
        }
    }
}
