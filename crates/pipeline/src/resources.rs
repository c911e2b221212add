//! The resources that tasks take on a cluster: a part of the spec that enters no key.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{
    collections::BTreeMap,
    fmt,
    num::{NonZeroU16, NonZeroU32},
    str::FromStr,
};

/// The resources of a task. If a field is absent, the engine decides; for `cpus`, the default is one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    /// Number of processors, which is also the number of threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<NonZeroU32>,
    /// Memory, such as `8G`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// The longest time that the task may run, such as `4:00:00`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// Number of GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus: Option<NonZeroU32>,
    /// Number of jobs that share the work of one task, if its stage can be computed in parts, as feature matching can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parts: Option<NonZeroU16>,
    /// The backend to compute on. If it is absent, it is the one that the submission names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Further options of Slurm's `sbatch`, such as `--partition=gpu`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Resources {
    /// Number of processors, by default one.
    #[must_use]
    pub fn cpus(&self) -> u32 {
        self.cpus.map_or(1, NonZeroU32::get)
    }

    /// Number of jobs that share the work of a task that can be computed in parts, by default one.
    #[must_use]
    pub fn parts(&self) -> u32 {
        self.parts.map_or(1, |parts| parts.get().into())
    }

    /// Fills fields that are absent from `usual`.
    fn or(self, usual: &Self) -> Self {
        Self {
            cpus: self.cpus.or(usual.cpus),
            memory: self.memory.or(usual.memory),
            time: self.time.or(usual.time),
            gpus: self.gpus.or(usual.gpus),
            parts: self.parts.or(usual.parts),
            device: self.device.or_else(|| usual.device.clone()),
            options: if self.options.is_empty() { usual.options.clone() } else { self.options },
        }
    }
}

/// A spec's `[resources]`: what tasks usually take, and what the tasks of some stages take instead.
#[derive(Debug, Clone, Default)]
pub(crate) struct ResourcesByStage {
    pub(crate) usual: Resources,
    pub(crate) stages: BTreeMap<&'static str, Resources>,
}

impl ResourcesByStage {
    pub(crate) fn of(&self, stage: &str) -> Resources {
        self.stages.get(stage).cloned().unwrap_or_default().or(&self.usual)
    }
}

/// Parses a number that consists of digits only.
fn whole(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.chars().all(|c| c.is_ascii_digit()))
}

/// An amount of memory of at least 1 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(try_from = "String", into = "String", extend("examples" = ["8G"]))]
pub struct Memory(u64);

impl Memory {
    /// The amount in MiB.
    #[must_use]
    pub fn mebibytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Memory {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let unit = |unit: char| ['M', 'G', 'T'].iter().position(|u| u.eq_ignore_ascii_case(&unit));
        let parsed = text.chars().last().and_then(unit).and_then(|power| {
            let number = whole(&text[..text.len() - 1])?;
            number.checked_mul(1024u64.checked_pow(u32::try_from(power).ok()?)?).filter(|mebibytes| *mebibytes > 0)
        });
        parsed.map(Self).ok_or_else(|| {
            format!("'{text}' is no amount of memory; expected a whole number and M, G or T, such as `8G`")
        })
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}M", self.0)
    }
}

/// A time span of at least one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(try_from = "String", into = "String", extend("examples" = ["4:00:00"]))]
pub struct Time(u64);

impl Time {
    /// The time span in seconds.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.0
    }
}

impl FromStr for Time {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = || {
            let mut parts = text.split(':').map(whole);
            let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
            if parts.next().is_some() || minutes >= 60 || seconds >= 60 {
                return None;
            }
            hours.checked_mul(3600)?.checked_add(60 * minutes + seconds).filter(|seconds| *seconds > 0)
        };
        parsed()
            .map(Self)
            .ok_or_else(|| format!("'{text}' is no time; expected hours, minutes and seconds, such as `4:00:00`"))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:02}:{:02}", self.0 / 3600, self.0 / 60 % 60, self.0 % 60)
    }
}

/// Implements serialisation as a text, through `Display` and `FromStr`.
macro_rules! as_text {
    ($($type:ty)*) => { $(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(de::Error::custom)
            }
        }
    )* };
}
as_text!(Memory Time);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_round_trip() {
        for (text, mebibytes) in [("512M", 512), ("8G", 8192), ("1T", 1 << 20), ("3g", 3072)] {
            let memory: Memory = text.parse().unwrap();
            assert_eq!((memory.mebibytes(), memory.to_string().parse()), (mebibytes, Ok(memory)), "{text}");
        }
        for (text, seconds) in [("0:00:01", 1), ("4:00:00", 14400), ("100:30:05", 361_805)] {
            let time: Time = text.parse().unwrap();
            assert_eq!((time.seconds(), time.to_string()), (seconds, text.to_owned()));
        }
        for bad in ["", "8", "G", "0G", "-1G", "+8G", "8GB", "1.5G", "99999999999999999999T", "999999999999999T", "8Gé"]
        {
            assert!(bad.parse::<Memory>().is_err(), "{bad}");
        }
        for bad in [
            "",
            "4",
            "4:00",
            "0:00:00",
            "1:60:00",
            "0:9999999999999999999:00",
            "1:00:60",
            "1:00:00:00",
            "-1:00:00",
            "+1:00:00",
            "é",
        ] {
            assert!(bad.parse::<Time>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_stage_takes_what_is_usual_but_for_what_it_says() {
        let read = |text: &str| toml::from_str::<Resources>(text).unwrap();
        let usual = read("cpus = 2\nmemory = '4G'\noptions = ['--account=a']");
        let stages = BTreeMap::from([("pretrain", read("cpus = 16\ngpus = 1\noptions = ['--partition=gpu']"))]);
        let resources = ResourcesByStage { usual: usual.clone(), stages };
        assert_eq!(resources.of("invert"), usual);
        let pretrain = read("cpus = 16\nmemory = '4G'\ngpus = 1\noptions = ['--partition=gpu']");
        assert_eq!(resources.of("pretrain"), pretrain);
        assert_eq!(Resources::default().cpus(), 1);
    }
}
