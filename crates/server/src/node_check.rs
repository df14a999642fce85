//! What a start refuses of a configuration, without a start.

use nihilo_types::node_config::NodeConfig;

use crate::{data_plane, log, restart, wiring};

/// # Errors
/// A setting, or a certificate, cannot be used.
pub(crate) fn check(config: &NodeConfig) -> anyhow::Result<()> {
    drop(log::wanted(&config.log)?);
    wiring::check_autoscaler(&config.autoscaler)?;
    data_plane::check(config)?;
    restart::answer_asker();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_start_would_refuse_is_named() {
        let good = NodeConfig::of_one("node1".into(), 1, "/x".into());
        assert!(check(&good).is_ok());
        let changed = |change: fn(&mut NodeConfig)| {
            let mut config = good.clone();
            change(&mut config);
            format!("{:#}", check(&config).unwrap_err())
        };
        let setting = changed(|config| {
            config.autoscaler.insert("no-such-key".into(), "1".into());
        });
        assert!(setting.contains("autoscaler"), "{setting}");
        let listen = changed(|config| config.listen = "nowhere".into());
        assert!(listen.contains("listen = `nowhere:"), "{listen}");
        let proxies = changed(|config| config.gateway.trusted_proxies = vec!["10.0.0.0/99".into()]);
        assert!(proxies.contains("trusted-proxies"), "{proxies}");
        let private = changed(|config| config.gateway.private_listen = Some("x".into()));
        assert!(private.contains("private-listen"), "{private}");
        let certificates = changed(|config| {
            config.gateway.tls_listen = Some("127.0.0.1:8443".into());
            config.gateway.certificates = Some("/no/such/directory".into());
        });
        assert!(
            certificates.contains("/no/such/directory"),
            "{certificates}"
        );
    }
}
