//! `service create` and `service update`: flags (kn's names) → a Service.

use std::collections::BTreeMap;

use clap::Args;
use nihilo_types::meta::API_VERSION;
use nihilo_types::quantity::Quantity;
use nihilo_types::service::Service;
use nihilo_types::template::{
    Amounts, Container, ContainerPort, EnvVar, PullPolicy, RevisionTemplate,
};

use crate::config_flags::ConfigFlags;
use crate::failure::{Failure, Result};

const MIN_SCALE: &str = "autoscaling.knative.dev/min-scale";
const MAX_SCALE: &str = "autoscaling.knative.dev/max-scale";
const TARGET: &str = "autoscaling.knative.dev/target";
const WINDOW: &str = "autoscaling.knative.dev/window";

/// What to change of a Service's template; nothing given, nothing changed.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ServiceFlags {
    /// `demo/NAME`, `bundle/NAME:TAG`, `file:///path/to/program`, or a container image such as `ghcr.io/team/app:v1`.
    #[arg(long)]
    pub image: Option<String>,
    /// When a container image is fetched: `IfNotPresent`, `Always` or `Never`. With `Always` it is the
    /// registry's, whatever was pushed into the cluster.
    #[arg(long, value_name = "POLICY")]
    pub pull_policy: Option<PullPolicy>,
    /// Environment variable; `KEY-` removes it. May be repeated.
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub env: Vec<String>,
    #[command(flatten)]
    pub config: ConfigFlags,
    /// Port the app listens on, with its protocol: `8080`, `h2c:8080`.
    #[arg(short, long, value_name = "[h2c:]PORT")]
    pub port: Option<String>,
    /// Requests an instance gets at once at most; 0 = no limit.
    #[arg(long, value_name = "N")]
    pub concurrency_limit: Option<u32>,
    /// Bounds of the number of instances: `0..5`, `1..`, `..5`, or one number for both.
    #[arg(long, value_name = "MIN..MAX")]
    pub scale: Option<String>,
    /// Requests in flight per instance to aim for.
    #[arg(long, value_name = "N")]
    pub scale_target: Option<String>,
    /// Span that the autoscaler averages over, such as `60s`.
    #[arg(long, value_name = "DURATION")]
    pub scale_window: Option<String>,
    /// What an instance may use at most: `cpu=500m`, `memory=128Mi`, or both; `cpu-` removes one.
    #[arg(long, value_name = "KEY=QUANTITY", value_delimiter = ',')]
    pub limit: Vec<String>,
    /// What an instance is weighed by, keys as of --limit.
    #[arg(long, value_name = "KEY=QUANTITY", value_delimiter = ',')]
    pub request: Vec<String>,
    /// User id that the program runs as; only nodes that run as root can.
    #[arg(long, value_name = "UID")]
    pub user: Option<u32>,
    /// Annotation of the revision template; `KEY-` removes it. May be repeated.
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub annotation: Vec<String>,
    /// Seconds a request may take.
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u32>,
    /// Argument of the program; may be repeated, replaces all.
    #[arg(long, allow_hyphen_values = true)]
    pub arg: Vec<String>,
    /// Program and leading arguments instead of the image's own; may be repeated, replaces all.
    #[arg(long, allow_hyphen_values = true)]
    pub cmd: Vec<String>,
    /// Name of the new revision, `SERVICE-something`.
    #[arg(long, value_name = "NAME")]
    pub revision_name: Option<String>,
}

impl ServiceFlags {
    /// # Errors
    /// Usage: no image, or a malformed flag.
    pub(crate) fn create(&self, namespace: &str, name: &str) -> Result<Service> {
        if self.image.is_none() {
            return Err(Failure::usage("a new service needs an image")
                .hint(format!("nihilo service create {name} --image demo/hello")));
        }
        let mut service = Service {
            api_version: API_VERSION.into(),
            kind: "Service".into(),
            ..Service::default()
        };
        service.metadata.name = name.into();
        service.metadata.namespace = namespace.into();
        service
            .spec
            .template
            .spec
            .containers
            .push(Container::default());
        self.change(&mut service)?;
        Ok(service)
    }

    /// Changes a stored Service; a changed template loses an own revision name unless the flags
    /// give a new one.
    ///
    /// # Errors
    /// Usage: a malformed flag.
    pub(crate) fn change(&self, service: &mut Service) -> Result<()> {
        let template = &mut service.spec.template;
        let before = template.clone();
        self.change_scale(&mut template.metadata.annotations)?;
        change_annotations(&self.annotation, &mut template.metadata.annotations)?;
        self.change_limits(template);
        if template.spec.containers.is_empty() {
            template.spec.containers.push(Container::default());
        }
        self.change_container(&mut template.spec.containers[0])?;
        self.config.change(&mut template.spec)?;
        if let Some(name) = &self.revision_name {
            template.metadata.name.clone_from(name);
        } else if *template != before {
            template.metadata.name.clear();
        }
        Ok(())
    }

    fn change_scale(&self, annotations: &mut BTreeMap<String, String>) -> Result<()> {
        if let Some(text) = &self.scale {
            let (min, max) = parse_scale(text)?;
            for (key, bound) in [(MIN_SCALE, min), (MAX_SCALE, max)] {
                if let Some(bound) = bound {
                    annotations.insert(key.into(), bound.to_string());
                }
            }
        }
        for (key, value) in [(TARGET, &self.scale_target), (WINDOW, &self.scale_window)] {
            if let Some(value) = value {
                annotations.insert(key.into(), value.clone());
            }
        }
        Ok(())
    }

    fn change_limits(&self, template: &mut RevisionTemplate) {
        if self.concurrency_limit.is_some() {
            template.spec.container_concurrency = self.concurrency_limit;
        }
        if self.timeout.is_some() {
            template.spec.timeout_seconds = self.timeout;
        }
    }

    fn change_container(&self, container: &mut Container) -> Result<()> {
        if let Some(image) = &self.image {
            container.image.clone_from(image);
        }
        if let Some(policy) = self.pull_policy {
            container.image_pull_policy = policy;
        }
        if let Some(port) = &self.port {
            container.ports = vec![parse_port(port)?];
        }
        if !self.arg.is_empty() {
            container.args.clone_from(&self.arg);
        }
        if !self.cmd.is_empty() {
            container.command.clone_from(&self.cmd);
        }
        if self.user.is_some() {
            container.security_context.run_as_user = self.user;
        }
        change_amounts(&self.limit, &mut container.resources.limits)?;
        change_amounts(&self.request, &mut container.resources.requests)?;
        change_env(&self.env, &mut container.env)
    }
}

/// One `KEY=VALUE` or `KEY-`.
fn assignment(text: &str) -> Result<(&str, Option<&str>)> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key, Some(value))),
        None => match text.strip_suffix('-') {
            Some(key) if !key.is_empty() => Ok((key, None)),
            _ => Err(Failure::usage(format!(
                "`{text}`: expected KEY=VALUE, or KEY- to remove"
            ))),
        },
        Some(_) => Err(Failure::usage(format!("`{text}`: the key is empty"))),
    }
}

fn change_env(changes: &[String], env: &mut Vec<EnvVar>) -> Result<()> {
    for change in changes {
        let (name, value) = assignment(change)?;
        let Some(value) = value else {
            env.retain(|variable| variable.name != name);
            continue;
        };
        match env.iter_mut().find(|variable| variable.name == name) {
            Some(variable) => {
                variable.value = value.into();
                variable.value_from = None;
            }
            None => env.push(EnvVar {
                name: name.into(),
                value: value.into(),
                ..EnvVar::default()
            }),
        }
    }
    Ok(())
}

fn change_amounts(changes: &[String], amounts: &mut Amounts) -> Result<()> {
    for change in changes {
        let (key, value) = assignment(change)?;
        let amount = match key {
            "cpu" => &mut amounts.cpu,
            "memory" => &mut amounts.memory,
            other => {
                let text = format!("`{other}`: a limit or request is of `cpu` or `memory`");
                return Err(Failure::usage(text));
            }
        };
        *amount = value.map(Quantity::new);
    }
    Ok(())
}

fn change_annotations(
    changes: &[String],
    annotations: &mut BTreeMap<String, String>,
) -> Result<()> {
    for change in changes {
        match assignment(change)? {
            (key, Some(value)) => annotations.insert(key.into(), value.into()),
            (key, None) => annotations.remove(key),
        };
    }
    Ok(())
}

fn parse_scale(text: &str) -> Result<(Option<u32>, Option<u32>)> {
    let malformed = || {
        Failure::usage(format!(
            "scale `{text}`: expected MIN..MAX, MIN.., ..MAX or one number"
        ))
    };
    let bound = |text: &str| match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| malformed()),
    };
    let (min, max) = match text.split_once("..") {
        Some(("", "")) => return Err(malformed()),
        Some((min, max)) => (bound(min)?, bound(max)?),
        None if text.is_empty() => return Err(malformed()),
        None => (bound(text)?, bound(text)?),
    };
    match (min, max) {
        // 0 as a maximum means none.
        (Some(min), Some(max)) if max > 0 && min > max => Err(Failure::usage(format!(
            "scale `{text}`: the minimum is above the maximum"
        ))),
        bounds => Ok(bounds),
    }
}

fn parse_port(text: &str) -> Result<ContainerPort> {
    let (name, port) = text.split_once(':').unwrap_or(("", text));
    let port = port.parse().ok().filter(|port| *port > 0);
    match (name, port) {
        ("" | "http1" | "h2c", Some(port)) => Ok(ContainerPort {
            name: name.into(),
            container_port: Some(port),
            protocol: String::new(),
        }),
        _ => Err(Failure::usage(format!(
            "port `{text}`: expected PORT, http1:PORT or h2c:PORT"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: ServiceFlags,
    }

    fn flags(line: &str) -> ServiceFlags {
        Line::try_parse_from(["x"].into_iter().chain(line.split(' ')))
            .unwrap()
            .flags
    }

    #[test]
    fn all_flags_of_create_reach_the_object() {
        let line = "--image demo/hello --env TARGET=World -e EMPTY= --port h2c:9000 \
                    --concurrency-limit 10 --scale 0..5 --scale-target 7 --scale-window 6s -a \
                    nihilo.dev/fast-scale=true --timeout 20 --arg --verbose --cmd /bin/app \
                    --revision-name hello-one";
        let service = flags(line).create("default", "hello").unwrap();
        let want = r#"{"apiVersion":"serving.knative.dev/v1","kind":"Service","metadata":{"name":"hello","namespace":"default"},"spec":{"template":{"metadata":{"name":"hello-one","annotations":{"autoscaling.knative.dev/max-scale":"5","autoscaling.knative.dev/min-scale":"0","autoscaling.knative.dev/target":"7","autoscaling.knative.dev/window":"6s","nihilo.dev/fast-scale":"true"}},"spec":{"containerConcurrency":10,"timeoutSeconds":20,"containers":[{"image":"demo/hello","command":["/bin/app"],"args":["--verbose"],"env":[{"name":"TARGET","value":"World"},{"name":"EMPTY","value":""}],"ports":[{"name":"h2c","containerPort":9000}]}]}}}}"#;
        assert_eq!(serde_json::to_string(&service).unwrap(), want);
    }

    #[test]
    fn limits_and_user_are_set_one_by_one() {
        let line = "--image demo/hello --limit cpu=500m,memory=64Mi --request cpu=0.1 --user 7";
        let mut service = flags(line).create("default", "hello").unwrap();
        flags("--limit cpu- --request memory=32Mi")
            .change(&mut service)
            .unwrap();
        let container = serde_json::to_value(&service.spec.template.spec.containers[0]).unwrap();
        let want = serde_json::json!({
            "image": "demo/hello",
            "resources": {
                "limits": {"memory": "64Mi"},
                "requests": {"cpu": "0.1", "memory": "32Mi"},
            },
            "securityContext": {"runAsUser": 7},
        });
        assert_eq!(container, want);
        let disk = flags("--image x --limit disk=1Gi").create("default", "hello");
        assert_eq!(disk.unwrap_err().code, 2);
    }

    #[test]
    fn update_changes_only_what_is_named() {
        let line = "--image demo/hello -e A=1 -e B=2 --revision-name hello-one";
        let mut service = flags(line).create("default", "hello").unwrap();
        flags("-e A- -e B=3 -e C=4").change(&mut service).unwrap();
        let container = &service.spec.template.spec.containers[0];
        let env: Vec<_> = container
            .env
            .iter()
            .map(|v| format!("{}={}", v.name, v.value))
            .collect();
        assert_eq!(
            (container.image.as_str(), env),
            ("demo/hello", vec!["B=3".into(), "C=4".into()])
        );
        // The name belonged to the old template.
        assert_eq!(service.spec.template.metadata.name, "");
    }

    #[test]
    fn an_update_without_a_change_keeps_the_revisions_name() {
        let mut service = flags("--image demo/hello --revision-name hello-one")
            .create("d", "hello")
            .unwrap();
        flags("--image demo/hello").change(&mut service).unwrap();
        assert_eq!(service.spec.template.metadata.name, "hello-one");
    }

    #[test]
    fn scales_have_up_to_two_bounds() {
        let cases = [
            ("0..5", (Some(0), Some(5))),
            ("1..", (Some(1), None)),
            ("..5", (None, Some(5))),
            ("3", (Some(3), Some(3))),
            ("2..0", (Some(2), Some(0))),
        ];
        for (text, want) in cases {
            assert_eq!(parse_scale(text).unwrap(), want, "{text}");
        }
        for bad in ["", "..", "5..1", "a..b", "1...2", "-1"] {
            assert_eq!(parse_scale(bad).unwrap_err().code, 2, "{bad}");
        }
    }

    #[test]
    fn malformed_flags_are_usage_errors() {
        for bad in [
            "--env =x",
            "--env X",
            "--port 0",
            "--port tcp:80",
            "--annotation x",
        ] {
            let failure = flags(&format!("--image demo/hello {bad}"))
                .create("d", "x")
                .unwrap_err();
            assert_eq!(failure.code, 2, "{bad}");
        }
        assert!(
            ServiceFlags::default()
                .create("d", "x")
                .unwrap_err()
                .to_string()
                .contains("image")
        );
    }
}
