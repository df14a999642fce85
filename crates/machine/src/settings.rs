//! The cluster's settings: what the ConfigMaps of `knative-serving` say, parsed when they are
//! written, so that what is in force is always valid.

use std::collections::BTreeMap;

use nihilo_scale::config::ScaleConfig;
use nihilo_types::config_map::{CONFIG_AUTOSCALER, CONFIG_GC, CONFIG_NETWORK};
use nihilo_types::time::{parse_go_duration_ms, parse_go_duration_ns};

type Data = BTreeMap<String, String>;

const ROLLOUT_DURATION: &str = "rollout-duration";
/// Upstream's name; `false` unless it is set.
pub const AUTOCREATE_DOMAIN_CLAIMS: &str = "autocreate-cluster-domain-claims";

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    pub scale: ScaleConfig,
    pub network: NetworkConfig,
    pub gc: GcConfig,
}

/// `config-network`, the part that this version honours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Of routes that name none, in seconds; 0 = new revisions get their share at once.
    pub rollout_duration_s: u64,
    /// A new DomainMapping claims a host that nobody has claimed.
    pub autocreate_domain_claims: bool,
}

/// `config-gc`: which revisions may go (01-objects §13). `None` = disabled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcConfig {
    pub since_create_ms: Option<u64>,
    pub since_active_ms: Option<u64>,
    pub min_non_active: usize,
    pub max_non_active: Option<usize>,
}

impl Default for GcConfig {
    fn default() -> Self {
        Self {
            since_create_ms: Some(48 * 3_600_000),
            since_active_ms: Some(15 * 3_600_000),
            min_non_active: 20,
            max_non_active: Some(1_000),
        }
    }
}

impl Settings {
    /// These settings with one of the system's ConfigMaps read anew; another name changes nothing.
    ///
    /// # Errors
    /// What is wrong with it, in upstream's words.
    pub fn with(&self, name: &str, data: &Data) -> Result<Self, String> {
        let mut next = self.clone();
        match name {
            CONFIG_AUTOSCALER => {
                next.scale = ScaleConfig::from_map(data).map_err(|error| error.0)?;
            }
            CONFIG_NETWORK => next.network = NetworkConfig::from_map(data)?,
            CONFIG_GC => next.gc = GcConfig::from_map(data)?,
            _ => {}
        }
        Ok(next)
    }
}

impl NetworkConfig {
    fn from_map(data: &Data) -> Result<Self, String> {
        let mut config = Self::default();
        if let Some(text) = data.get(ROLLOUT_DURATION) {
            config.rollout_duration_s = seconds(ROLLOUT_DURATION, text)?;
        }
        if let Some(text) = data.get(AUTOCREATE_DOMAIN_CLAIMS) {
            config.autocreate_domain_claims = text
                .parse::<bool>()
                .map_err(|error| parse_failed(AUTOCREATE_DOMAIN_CLAIMS, &error))?;
        }
        Ok(config)
    }
}

fn seconds(key: &str, text: &str) -> Result<u64, String> {
    let seconds: i64 = text
        .parse()
        .map_err(|error: std::num::ParseIntError| parse_failed(key, &error))?;
    u64::try_from(seconds)
        .map_err(|_| format!("{key} must be a positive integer, but was {seconds}"))
}

impl GcConfig {
    fn from_map(data: &Data) -> Result<Self, String> {
        let mut config = Self::default();
        for (key, text) in data {
            match key.as_str() {
                "retain-since-create-time" => config.since_create_ms = wait(key, text)?,
                "retain-since-last-active-time" => config.since_active_ms = wait(key, text)?,
                "min-non-active-revisions" => {
                    config.min_non_active = count(key, text)?.unwrap_or(0);
                }
                "max-non-active-revisions" => config.max_non_active = count(key, text)?,
                _ => {}
            }
        }
        if let Some(max) = config
            .max_non_active
            .filter(|max| config.min_non_active > *max)
        {
            return Err(format!(
                "min-non-active-revisions({}) must be <= max-non-active-revisions({max})",
                config.min_non_active
            ));
        }
        Ok(config)
    }
}

const DISABLED: &str = "disabled";

fn wait(key: &str, text: &str) -> Result<Option<u64>, String> {
    if text.eq_ignore_ascii_case(DISABLED) {
        return Ok(None);
    }
    match (parse_go_duration_ms(text), parse_go_duration_ns(text)) {
        (Some(ms), _) => Ok(Some(ms)),
        (None, Some(_)) => Err(format!("{key} must be non-negative, was: {text}")),
        (None, None) => Err(parse_failed(key, &format!("invalid duration {text:?}"))),
    }
}

fn count(key: &str, text: &str) -> Result<Option<usize>, String> {
    if text.eq_ignore_ascii_case(DISABLED) {
        return Ok(None);
    }
    let number: i64 = text
        .parse()
        .map_err(|error: std::num::ParseIntError| parse_failed(key, &error))?;
    usize::try_from(number)
        .map(Some)
        .map_err(|_| format!("{key} must be non-negative, was: {number}"))
}

fn parse_failed(key: &str, why: &dyn std::fmt::Display) -> String {
    format!("failed to parse data: failed to parse {key:?}: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, pairs: &[(&str, &str)]) -> Result<Settings, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Settings::default().with(name, &pairs.iter().map(owned).collect())
    }

    #[test]
    fn collection_can_be_bounded_and_disabled() {
        let settings = read(
            CONFIG_GC,
            &[
                ("retain-since-create-time", "disabled"),
                ("retain-since-last-active-time", "1h"),
                ("max-non-active-revisions", "disabled"),
                ("min-non-active-revisions", "3"),
            ],
        );
        let gc = settings.unwrap().gc;
        let want = (None, Some(3_600_000), 3, None);
        let got = (
            gc.since_create_ms,
            gc.since_active_ms,
            gc.min_non_active,
            gc.max_non_active,
        );
        assert_eq!(got, want);
    }

    #[test]
    fn the_network_s_settings_stand_beside_each_other() {
        let none = read(CONFIG_NETWORK, &[]).unwrap().network;
        assert_eq!(none, NetworkConfig::default());
        let both = [
            ("rollout-duration", "90"),
            (AUTOCREATE_DOMAIN_CLAIMS, "true"),
        ];
        let network = read(CONFIG_NETWORK, &both).unwrap().network;
        assert_eq!(network.rollout_duration_s, 90);
        assert!(network.autocreate_domain_claims);
    }

    #[test]
    fn what_cannot_hold_is_refused_in_words() {
        let refusals = [
            (
                CONFIG_GC,
                "min-non-active-revisions",
                "1001",
                "(1001) must be <=",
            ),
            (
                CONFIG_GC,
                "retain-since-create-time",
                "-1h",
                "must be non-negative",
            ),
            (CONFIG_NETWORK, "rollout-duration", "-5", "positive integer"),
            (
                CONFIG_NETWORK,
                "rollout-duration",
                "soon",
                "failed to parse",
            ),
            (
                CONFIG_NETWORK,
                AUTOCREATE_DOMAIN_CLAIMS,
                "maybe",
                "failed to parse",
            ),
            (
                CONFIG_AUTOSCALER,
                "stable-window",
                "1s",
                "must be in [6s; 1h0m0s]",
            ),
        ];
        for (name, key, value, part) in refusals {
            let said = read(name, &[(key, value)]).unwrap_err();
            assert!(said.contains(part), "{said}");
        }
    }
}
