//! What strikes the cluster, and how it is made whole again.

use std::sync::Arc;
use std::time::Duration;

use nihilo_raft::Role;
use nihilo_sim::checker::coverage::{Injected, InjectionResult};
use nihilo_sim::checker::instance_bound::SeenEmpty;
use nihilo_sim::checker::request_ledger::GatewayGone;
use nihilo_sim::world::Random;
use turmoil::Sim;

use crate::book::Book;
use crate::disk::End;
use crate::links::{Edge, Links};
use crate::node::{N_NODES, Site, name};
use crate::plan::{Kind, Plan};

/// A node's process is down for this long, in milliseconds.
const DOWN_MS: (u64, u64) = (50, 2_000);
const CUT_MS: (u64, u64) = (100, 3_000);
const SLOW_MS: (u64, u64) = (300, 3_000);
/// A slow disk's sync, in milliseconds.
const SLOW_SYNC_MS: (u64, u64) = (20, 700);
const SLOW_LINK_MS: (u64, u64) = (10, 250);
/// A node whose store failed is restarted after this.
const REPAIR_MS: u64 = 1_500;
/// After its restart a gateway needs this long until it listens at the latest.
const GATEWAY_BACK_NS: u64 = 3_000_000_000;

/// What ends at a time.
#[derive(Debug, Clone)]
enum Repair {
    Start(usize),
    Heal(Vec<Edge>, bool),
    Disk(usize),
    Link(usize, usize),
    /// Ends and starts a node whose store failed.
    Restart(usize),
}

#[derive(Debug)]
pub(crate) struct Faults {
    plan: Plan,
    sites: Vec<Arc<Site>>,
    links: Arc<Links>,
    book: Arc<Book>,
    random: Random,
    is_down: [bool; N_NODES],
    repairs: Vec<(u64, Repair)>,
    next_ns: u64,
    /// Virtual time of the present step.
    now_ns: u64,
}

impl Faults {
    pub(crate) fn new(plan: &Plan, sites: Vec<Arc<Site>>, links: Arc<Links>) -> Self {
        let book = sites[0].book.clone();
        Self {
            plan: plan.clone(),
            sites,
            links,
            book,
            random: Random::new(plan.seed.wrapping_mul(17) + 3),
            is_down: [false; N_NODES],
            repairs: Vec::new(),
            next_ns: 0,
            now_ns: 0,
        }
    }

    /// Does what is due.
    pub(crate) fn step(&mut self, sim: &mut Sim<'_>, now_ns: u64) {
        self.now_ns = now_ns;
        self.repair(sim, |at_ns| at_ns <= now_ns);
        if self.next_ns == 0 {
            self.next_ns = now_ns + 500_000_000;
        }
        if now_ns < self.next_ns {
            return;
        }
        let pause = self
            .random
            .between(self.plan.pause_ms.0, self.plan.pause_ms.1);
        self.next_ns = now_ns + pause * 1_000_000;
        let kind = self.plan.kinds[self.random.index(self.plan.kinds.len())];
        self.strike(sim, kind);
    }

    /// Ends every fault.
    pub(crate) fn heal(&mut self, sim: &mut Sim<'_>, now_ns: u64) {
        self.now_ns = now_ns;
        // A failed store stays failed until its node is restarted.
        for place in 0..N_NODES {
            self.sites[place].platter.fail_next_sync(false);
            let view = self.sites[place].view.lock().clone();
            if view.is_some_and(|view| view.raft.failure().borrow().is_some()) {
                self.end(sim, place, End::Kill);
                self.repairs.push((now_ns, Repair::Start(place)));
            }
        }
        self.repair(sim, |_| true);
    }

    fn repair(&mut self, sim: &mut Sim<'_>, is_due: impl Fn(u64) -> bool) {
        let (due, later) = std::mem::take(&mut self.repairs)
            .into_iter()
            .partition(|(at_ns, _)| is_due(*at_ns));
        self.repairs = later;
        let due: Vec<(u64, Repair)> = due;
        for (_, repair) in due {
            self.tell(&format!("repair {repair:?}"));
            match repair {
                Repair::Start(place) => self.start(sim, place),
                Repair::Heal(edges, resets) => {
                    edges.iter().for_each(|edge| self.links.heal(edge, resets));
                }
                Repair::Disk(place) => self.steady_disk(place),
                Repair::Link(a, b) => {
                    sim.set_link_max_message_latency(name(a), name(b), self.plan.latency);
                }
                Repair::Restart(place) => {
                    if !self.is_down[place] {
                        self.end(sim, place, End::Kill);
                        self.start(sim, place);
                    }
                }
            }
        }
    }

    pub(crate) fn steady_disk(&self, place: usize) {
        let platter = &self.sites[place].platter;
        platter.set_sync_takes(self.plan.sync / 4, self.plan.sync);
    }

    fn strike(&mut self, sim: &mut Sim<'_>, kind: Kind) {
        let leader = self.leader();
        let anyone = self.random.index(N_NODES);
        let leader_mostly = match leader {
            Some(leader) if self.random.chance(700) => leader,
            _ => anyone,
        };
        let hit = match kind {
            Kind::KillLeader => leader.filter(|place| self.down(sim, *place, End::Kill)),
            Kind::KillOther => Some(anyone).filter(|place| self.down(sim, *place, End::Kill)),
            Kind::PowerCutOne => {
                Some(leader_mostly).filter(|place| self.down(sim, *place, End::PowerCut))
            }
            Kind::PowerCutAll => {
                let n_hit = (0..N_NODES)
                    .filter(|place| self.down(sim, *place, End::PowerCut))
                    .count();
                Some(leader_mostly).filter(|_| n_hit > 0)
            }
            Kind::Isolate => {
                self.cut(leader_mostly, |_| true, |_| true);
                Some(leader_mostly)
            }
            Kind::CutOneWay => {
                let is_deaf = self.random.chance(500);
                self.cut(leader_mostly, |_| is_deaf, |_| !is_deaf);
                Some(leader_mostly)
            }
            Kind::CutLink => {
                let other = (leader_mostly + 1 + self.random.index(N_NODES - 1)) % N_NODES;
                self.cut(leader_mostly, |peer| peer == other, |peer| peer == other);
                Some(leader_mostly)
            }
            Kind::SlowLink => {
                let other = (anyone + 1) % N_NODES;
                let most = self.random.skewed(SLOW_LINK_MS.0, SLOW_LINK_MS.1);
                let most = Duration::from_millis(most);
                sim.set_link_max_message_latency(name(anyone), name(other), most);
                self.later(SLOW_MS, Repair::Link(anyone, other));
                Some(anyone)
            }
            Kind::SlowSync => {
                let most = self.random.skewed(SLOW_SYNC_MS.0, SLOW_SYNC_MS.1);
                let platter = &self.sites[leader_mostly].platter;
                platter.set_sync_takes(self.plan.sync / 4, Duration::from_millis(most));
                self.later(SLOW_MS, Repair::Disk(leader_mostly));
                Some(leader_mostly)
            }
            Kind::FailSync => Some(leader_mostly).filter(|place| {
                let may = !self.is_down[*place];
                if may {
                    self.sites[*place].platter.fail_next_sync(true);
                    self.later((REPAIR_MS, 2 * REPAIR_MS), Repair::Restart(*place));
                }
                may
            }),
        };
        let shown = hit.map_or("nobody".to_owned(), name);
        self.tell(&format!("fault {kind:?} hits {shown}"));
        self.book.injected.lock().push(Injected {
            fault: format!("{kind:?}"),
            at_ns: self.now_ns,
            result: match hit {
                Some(_) => InjectionResult::Installed,
                None => InjectionResult::Skipped("nobody to hit".into()),
            },
            hit_leader: hit.is_some() && hit == leader,
        });
    }

    fn leader(&self) -> Option<usize> {
        (0..N_NODES).find(|place| {
            let view = self.sites[*place].view.lock();
            let role = view.as_ref().map(|view| view.raft.status().role);
            role == Some(Role::Leader)
        })
    }

    fn later(&mut self, range_ms: (u64, u64), repair: Repair) {
        let ms = self.random.between(range_ms.0, range_ms.1);
        self.repairs.push((self.now_ns + ms * 1_000_000, repair));
    }

    /// Ends a node for a while; false if it is down already.
    fn down(&mut self, sim: &mut Sim<'_>, place: usize, end: End) -> bool {
        if self.is_down[place] {
            return false;
        }
        self.end(sim, place, end);
        self.later(DOWN_MS, Repair::Start(place));
        true
    }

    fn end(&mut self, sim: &mut Sim<'_>, place: usize, end: End) {
        self.is_down[place] = true;
        // What the harness holds of it would keep its directory locked.
        drop(self.sites[place].view.lock().take());
        sim.crash(name(place));
        self.sites[place].platter.end(end);
        self.book.seen_empty.lock().push(SeenEmpty {
            node: name(place),
            at_ns: self.now_ns,
        });
        self.book.gateway_gone.lock().push(GatewayGone {
            node: name(place),
            from_ns: self.now_ns,
            until_ns: u64::MAX,
        });
    }

    fn start(&mut self, sim: &mut Sim<'_>, place: usize) {
        self.is_down[place] = false;
        self.steady_disk(place);
        sim.bounce(name(place));
        let mut gone = self.book.gateway_gone.lock();
        let of_node = gone.iter_mut().rev().find(|gone| gone.node == name(place));
        if let Some(gone) = of_node {
            gone.until_ns = self.now_ns + GATEWAY_BACK_NS;
        }
    }

    /// Cuts what a node hears, and what it says, from and to some peers.
    fn cut(
        &mut self,
        place: usize,
        hears_not: impl Fn(usize) -> bool,
        says_not: impl Fn(usize) -> bool,
    ) {
        let mut edges = Vec::new();
        for peer in (0..N_NODES).filter(|peer| *peer != place) {
            if hears_not(peer) {
                edges.push((name(peer), name(place)));
            }
            if says_not(peer) {
                edges.push((name(place), name(peer)));
            }
        }
        for edge in &edges {
            self.links.cut(edge.clone());
        }
        let resets = self.random.chance(300);
        self.later(CUT_MS, Repair::Heal(edges, resets));
    }

    fn tell(&self, what: &str) {
        self.book.trace_at(self.now_ns, format_args!("{what}"));
    }
}
