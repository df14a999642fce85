//! Running instances never exceed max-scale while every node that runs one is heard (P6, 03-actors
//! §10). Instances of a node that was declared down do not count: their places were given away.

use super::Verdict;
use super::instances::Instances;

/// Judged when an instance of the revision has just started; 0 = no cap.
pub(crate) fn holds(instances: &Instances, uid: &str, max_scale: u32) -> Verdict {
    let counted: Vec<_> = instances
        .all()
        .filter(|(_, running)| *running.uid == *uid && !running.is_stranded)
        .map(|(id, running)| format!("{id} on node {}", running.node + 1))
        .collect();
    if max_scale == 0 || counted.len() <= max_scale as usize {
        return Ok(());
    }
    Err(format!(
        "{} run, at most {max_scale}: {}",
        counted.len(),
        counted.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use nihilo_types::id::{InstanceId, ObjectKey};

    use super::super::instances::Running;
    use super::*;

    #[test]
    fn a_stranded_instance_takes_no_place() {
        let mut instances = Instances::default();
        for (name, node) in [("a", 0), ("b", 1)] {
            let running = Running {
                node,
                revision: ObjectKey::new("default", "r"),
                uid: "u".into(),
                is_stranded: false,
            };
            instances.started(&InstanceId::from(name), running);
        }
        assert!(holds(&instances, "u", 1).is_err());
        instances.node_declared_down(0);
        assert_eq!(holds(&instances, "u", 1), Ok(()));
        assert_eq!(holds(&instances, "u", 0), Ok(()));
    }
}
