//! What a start costs at each level of isolation: a program that ends at once, from the order to start
//! until its end is seen and until nothing of it is left.
//!
//! `cargo run --release -p nihilo-runtime --example isolation_cost [N]`
#![allow(clippy::unwrap_used, reason = "a measurement that fails is none")]

#[path = "../tests/common/tenant.rs"]
mod tenant;

use std::time::{Duration, Instant};

use nihilo_runtime::config::Provided;
use nihilo_runtime::driver::{CallOff, Driver};
use nihilo_runtime::logs::Output;
use nihilo_runtime::process::ProcessDriver;
use nihilo_types::instance::InstanceSpec;
use nihilo_types::isolation::Isolation;
use nihilo_types::node_config::ProcessSettings;

const STARTS: u64 = 200;
/// Before what counts.
const WARM_UP: u64 = 10;
const FIRST_PORT: u16 = 17_000;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let n: u64 = std::env::args()
        .nth(1)
        .map_or(STARTS, |text| text.parse().unwrap());
    println!("| level | median ms | p99 ms | until nothing is left: median ms | p99 ms |");
    println!("|---|---|---|---|---|");
    for level in [Isolation::None, Isolation::Landlock, Isolation::Full] {
        let dir = tempfile::tempdir().unwrap();
        let settings = ProcessSettings {
            isolation: level,
            ..ProcessSettings::default()
        };
        let (executable, dir) = ("/bin/false".into(), dir.path());
        let driver = ProcessDriver::new(
            executable,
            "node1".into(),
            FIRST_PORT,
            settings,
            (dir, &[]),
            false,
        );
        let driver = driver.unwrap();
        let (mut ended, mut gone) = (Vec::new(), Vec::new());
        for k in 0..WARM_UP + n {
            let spec = spec(k);
            let output = dir.join(spec.id.as_str());
            std::fs::create_dir_all(&output).unwrap();
            let output = Output::new(output);
            let begun = Instant::now();
            let never = &mut CallOff::never();
            let started = driver.start(&spec, Provided::default(), &output, never);
            let mut started = started.await.unwrap();
            let exit = driver.wait(&mut started.handle).await;
            let took = begun.elapsed();
            driver.destroy(started.handle, exit).await;
            if k >= WARM_UP {
                ended.push(took);
                gone.push(begun.elapsed());
            }
        }
        let [end_median, end_p99] = shown(ended);
        let [gone_median, gone_p99] = shown(gone);
        let offered = driver.isolation();
        println!("| {offered} | {end_median} | {end_p99} | {gone_median} | {gone_p99} |");
    }
}

/// The median and the 99th of a hundred, in milliseconds.
fn shown(mut times: Vec<Duration>) -> [String; 2] {
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    [50, 99].map(|share| format!("{:.2}", at(share).as_secs_f64() * 1_000.0))
}

fn spec(counter: u64) -> InstanceSpec {
    InstanceSpec {
        image: "file:///bin/true".into(),
        args: Vec::new(),
        ..tenant::shell(counter, "")
    }
}
