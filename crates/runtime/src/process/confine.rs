//! What keeps an instance within its limits on this host: the kernel's groups where there are any,
//! looks from time to time where there are none.

use std::path::PathBuf;
use std::sync::Arc;

use nihilo_types::id::InstanceId;
use nihilo_types::instance::{Exit, InstanceSpec, Limits, RunAs, stage};
use nihilo_types::isolation::Isolation;
use nihilo_types::meta::keys;
use nihilo_types::node_config::ProcessSettings;
use tracing::{info, warn};

use super::cgroup::{Cgroups, Controllers, Group, Offer, Version};
use super::isolation::Isolating;
use super::mark::Mark;
use super::sampler::{Bounds, Sampler, Verdict};
use super::scratch::Scratch;
use super::{ids, volumes};
use crate::bundle::Program;
use crate::driver::StartError;
use crate::launch::{Plan, PlannedMount};
use crate::logs::Output;

/// Descriptors of one instance, where the node itself may have as many.
const OPEN_FILES: u64 = 65_536;
/// Where nothing counts an instance's processes, the kernel still counts a user's; so many times an
/// instance's bound is for the host's sake, not for the neighbours'.
const USER_PROCESSES: u64 = 16;
/// What a shell makes of SIGKILL that ended its child.
const KILLED_CODE: i32 = 137;
const SIGKILL: i32 = 9;

#[derive(Debug)]
pub(super) struct Confiner {
    settings: ProcessSettings,
    isolating: Isolating,
    scratch: Scratch,
    cgroups: Arc<Cgroups>,
    offer: Offer,
    sampler: Sampler,
    mark: Mark,
    /// This process's user and group.
    own: (u32, u32),
    /// Programs outlive this process.
    adopts: bool,
}

/// One instance's confinement, from before it runs until nothing of it is left.
#[derive(Debug, Default)]
pub(super) struct Confined {
    group: Group,
    pub(super) plan: Plan,
}

impl Confined {
    pub(super) fn group(&self) -> Group {
        self.group.clone()
    }
}

impl Confiner {
    /// Says in the log what this host offers.
    ///
    /// # Errors
    /// `settings` want programs to run as somebody whom this process cannot become.
    pub(super) fn new(
        settings: ProcessSettings,
        isolating: Isolating,
        mark: Mark,
        adopts: bool,
    ) -> std::io::Result<Self> {
        let own = (
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw(),
        );
        ids::ids(RunAs::default(), settings.run_as, own).map_err(std::io::Error::other)?;
        let cgroups = match settings.cgroups {
            true => Cgroups::detect(mark.as_str()),
            false => Cgroups::none("`process.cgroups` is off"),
        };
        let confiner = Self {
            settings,
            isolating,
            scratch: Scratch::of(&mark),
            offer: cgroups.offer(),
            cgroups: Arc::new(cgroups),
            sampler: Sampler::new(mark.clone()),
            mark,
            own,
            adopts,
        };
        confiner.say();
        Ok(confiner)
    }

    /// Ends what earlier processes of this node left in groups; returns how many groups that were.
    pub(super) fn sweep(&self) -> usize {
        self.cgroups.end_all()
    }

    /// Removes what programs of earlier processes have left, once none of them runs.
    pub(super) fn sweep_files(&self) {
        self.scratch.remove_all();
    }

    /// Instances that have a group or files, whichever process of this node made them.
    pub(super) fn instances(&self) -> Vec<InstanceId> {
        let mut all = self.cgroups.list();
        all.extend(self.scratch.instances());
        all
    }

    fn say(&self) {
        self.say_isolation();
        let limits = describe(&self.offer);
        if is_whole(&self.offer) {
            info!(limits, "limits of instances are the kernel's");
            return;
        }
        let why = self.offer.reasons.join("; ");
        warn!(
            limits,
            why, "limits of instances are not all kept by the kernel"
        );
    }

    fn say_isolation(&self) {
        let isolation = self.isolating.describe();
        match self.isolating.level() < self.settings.isolation {
            true => warn!(
                isolation,
                "programs are isolated less than `process: isolation` says"
            ),
            false => info!(isolation, "isolation of programs"),
        }
    }

    /// The level of isolation that holds, and what is missing of more.
    pub(super) fn isolation(&self) -> String {
        self.isolating.describe()
    }

    pub(super) fn level(&self) -> Isolation {
        self.isolating.level()
    }

    /// What a program's home is, beside the host's.
    pub(super) fn home(&self, id: &InstanceId) -> Option<PathBuf> {
        self.isolating.home(&self.scratch.path(id))
    }

    pub(super) fn may_mount(&self) -> bool {
        self.isolating.may_mount() || volumes::may_mount()
    }

    /// # Errors
    /// It is not to run with as little isolation as there is here.
    pub(super) fn check_isolation(
        &self,
        spec: &InstanceSpec,
        node: &str,
    ) -> Result<(), StartError> {
        let level = self.isolating.level();
        if level >= spec.min_isolation {
            return Ok(());
        }
        let why = self.isolating.missing(&self.settings);
        Err(StartError::not_started(
            stage::ISOLATION,
            format!(
                "`{}` of {} is more than the `{level}` of node `{node}`: {why}",
                spec.min_isolation,
                keys::MIN_ISOLATION
            ),
        ))
    }

    /// What keeps each kind of limit, and why where it is not the kernel, in one line.
    pub(super) fn describe(&self) -> String {
        let limits = describe(&self.offer);
        match self.offer.reasons.as_slice() {
            reasons if is_whole(&self.offer) || reasons.is_empty() => limits,
            reasons => format!("{limits} ({})", reasons.join("; ")),
        }
    }

    /// `mounts` are its volumes.
    ///
    /// # Errors
    /// It must not run as it is meant to, or its group cannot be made; nothing is left then.
    pub(super) async fn prepare(
        &self,
        spec: &InstanceSpec,
        program: &Program,
        port: u16,
        mounts: Vec<PlannedMount>,
    ) -> Result<Confined, StartError> {
        let ids = ids::ids(spec.run_as, self.settings.run_as, self.own)
            .map_err(|why| StartError::not_started(stage::RUN_AS, why))?;
        let (cgroups, id, limits) = (self.cgroups.clone(), spec.id.clone(), spec.limits);
        let max_processes = u64::from(self.settings.max_processes);
        let made =
            tokio::task::spawn_blocking(move || cgroups.make(&id, &limits, max_processes)).await;
        let group = made
            .map_err(|error| error.to_string())
            .flatten()
            .map_err(|why| StartError::not_started("cgroup", why))?;
        if self.isolating.level() == Isolation::Landlock
            && let Err(error) = self.scratch.make(&spec.id, ids)
        {
            group.remove();
            let cause = format!("no place for its temporary files: {error}");
            // No level of isolation: another try may have it, on this node too.
            return Err(StartError::not_started(stage::CONFIG, cause));
        }
        let dies_with = (!self.adopts).then(std::process::id);
        let mut plan = Plan {
            socket: spec.socket_activation,
            mounts,
            ..self.plan(&group, ids, dies_with)
        };
        let scratch = self.scratch.path(&spec.id);
        self.isolating.isolate(&mut plan, program, port, &scratch);
        Ok(Confined { group, plan })
    }

    fn plan(&self, group: &Group, ids: Option<(u32, u32)>, dies_with: Option<u32>) -> Plan {
        Plan {
            cgroups: group.doors(),
            open_files: Some(OPEN_FILES),
            processes: self.user_processes(ids),
            dies_with,
            ids,
            ..Plan::default()
        }
    }

    /// As the instance's own, but that a command outlives no process of the node, which waits for it.
    ///
    /// # Errors
    /// It must not run as it is meant to.
    pub(super) fn plan_of_command(
        &self,
        spec: &InstanceSpec,
        group: &Group,
        program: &Program,
        inside: Option<u32>,
    ) -> Result<Plan, String> {
        let ids = ids::ids(spec.run_as, self.settings.run_as, self.own)?;
        let mut plan = self.plan(group, ids, Some(std::process::id()));
        let scratch = self.scratch.path(&spec.id);
        self.isolating
            .isolate_command(&mut plan, spec, program, inside, &scratch)?;
        Ok(plan)
    }

    /// User and group of the instance's program, where it is not this process's.
    pub(super) fn ids(&self, spec: &InstanceSpec) -> Option<(u32, u32)> {
        // What must not be is refused when it is started.
        ids::ids(spec.run_as, self.settings.run_as, self.own).ok()?
    }

    /// The kernel does not count root's.
    fn user_processes(&self, ids: Option<(u32, u32)>) -> Option<u64> {
        let (user, _) = ids.unwrap_or(self.own);
        let is_counted = user != 0 && self.offer.pids.is_none();
        is_counted.then(|| USER_PROCESSES * u64::from(self.settings.max_processes))
    }

    /// Goes on with an instance that an earlier process of this node has confined. What its group
    /// does not bound, having been made under other settings, is looked at.
    pub(super) fn adopt(&self, spec: &InstanceSpec, pid: u32, output: &Output) -> Confined {
        let confined = Confined {
            group: self.cgroups.find(&spec.id),
            plan: Plan::default(),
        };
        self.watch(spec, Some(pid), &confined, output);
        confined
    }

    /// Looks at what nobody else bounds, as long as the instance runs.
    pub(super) fn watch(
        &self,
        spec: &InstanceSpec,
        pid: Option<u32>,
        confined: &Confined,
        output: &Output,
    ) {
        let Some(group) = pid else { return };
        let bounds = bounds(
            confined.group.controllers(),
            &spec.limits,
            u64::from(self.settings.max_processes),
        );
        self.sampler.watch(&spec.id, group, bounds, output.clone());
    }

    /// Kills whatever is left of an instance and removes its group; `exit`, told better where a limit
    /// ended it. `confined` is `None` where only the id is known.
    pub(super) async fn end(
        &self,
        id: &InstanceId,
        confined: Option<Confined>,
        exit: Exit,
    ) -> Exit {
        let verdict = self.sampler.forget(id);
        let (cgroups, mark, id) = (self.cgroups.clone(), self.mark.clone(), id.clone());
        let scratch = self.scratch.clone();
        let killed = tokio::task::spawn_blocking(move || {
            let group = confined.map_or_else(|| cgroups.find(&id), |confined| confined.group);
            group.kill();
            // What left the group, as root's programs can.
            mark.kill_instance(&id);
            let ran_out = group.ran_out_of_memory();
            group.remove();
            scratch.remove(&id);
            ran_out
        });
        let ran_out = killed.await.unwrap_or_else(|_| {
            warn!("looking for an instance's processes panicked");
            false
        });
        told(exit, ran_out, verdict)
    }
}

/// A kill for want of memory looks like any other, and that of an adopted program like any end: it
/// is told where it came from here.
fn told(exit: Exit, ran_out_of_memory: bool, verdict: Option<Verdict>) -> Exit {
    let was_killed = matches!(exit, Exit::Signal(SIGKILL) | Exit::Code(KILLED_CODE));
    let by_us = matches!(verdict, Some(Verdict::Memory { .. }));
    let for_memory = match exit {
        Exit::Unknown => by_us,
        _ => was_killed && (ran_out_of_memory || by_us),
    };
    match for_memory {
        true => Exit::OutOfMemory,
        false => exit,
    }
}

fn bounds(kept: Controllers, limits: &Limits, max_processes: u64) -> Bounds {
    Bounds {
        memory_bytes: limits.memory_bytes.filter(|_| !kept.memory),
        tasks: (!kept.pids).then_some(max_processes),
    }
}

fn is_whole(offer: &Offer) -> bool {
    offer.cpu.is_some() && offer.memory.is_some() && offer.pids.is_some()
}

fn describe(offer: &Offer) -> String {
    let by = |version: Option<Version>, otherwise: &'static str| match version {
        Some(Version::Two) => "cgroup2",
        Some(Version::One) => "cgroup1",
        None => otherwise,
    };
    format!(
        "cpu={} memory={} processes={} freeze={}",
        by(offer.cpu, "none"),
        by(offer.memory, "sampled"),
        by(offer.pids, "sampled"),
        by(offer.freeze, "signal")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(version: Option<Version>) -> Offer {
        Offer {
            cpu: version,
            memory: version,
            pids: version,
            freeze: version,
            reasons: Vec::new(),
        }
    }

    #[test]
    fn only_what_the_kernel_does_not_bound_is_looked_at() {
        let limits = Limits {
            memory_bytes: Some(7),
            ..Limits::default()
        };
        let all = Controllers {
            cpu: true,
            memory: true,
            pids: true,
        };
        assert_eq!(bounds(all, &limits, 9), Bounds::default());
        let looked_at = Bounds {
            memory_bytes: Some(7),
            tasks: Some(9),
        };
        let none = Controllers::default();
        assert_eq!(bounds(none, &limits, 9), looked_at);
        let without = bounds(none, &Limits::default(), 9);
        assert_eq!(without.memory_bytes, None);
    }

    #[test]
    fn what_keeps_a_limit_is_said_of_each() {
        let none = "cpu=none memory=sampled processes=sampled freeze=signal";
        assert_eq!(describe(&offer(None)), none);
        let mixed = Offer {
            memory: Some(Version::Two),
            ..offer(Some(Version::One))
        };
        assert_eq!(
            describe(&mixed),
            "cpu=cgroup1 memory=cgroup2 processes=cgroup1 freeze=cgroup1"
        );
    }

    #[test]
    fn a_kill_is_told_from_one_for_want_of_memory() {
        let memory = Some(Verdict::Memory { used: 2, limit: 1 });
        let tasks = Some(Verdict::Tasks { used: 2, limit: 1 });
        let cases = [
            (Exit::Signal(9), true, None, Exit::OutOfMemory),
            (Exit::Code(137), true, None, Exit::OutOfMemory),
            (Exit::Signal(9), false, memory, Exit::OutOfMemory),
            (Exit::Signal(9), false, None, Exit::Signal(9)),
            (Exit::Signal(9), false, tasks, Exit::Signal(9)),
            // It lost a child and ended by itself, in its own way.
            (Exit::Code(1), true, None, Exit::Code(1)),
            (Exit::Signal(11), true, None, Exit::Signal(11)),
            // Adopted: only what was done from here is known.
            (Exit::Unknown, false, memory, Exit::OutOfMemory),
            (Exit::Unknown, true, None, Exit::Unknown),
        ];
        for (exit, ran_out, verdict, want) in cases {
            assert_eq!(told(exit.clone(), ran_out, verdict), want, "{exit:?}");
        }
    }
}
