//! A reload within an epoch changes no count and never sets the id counter back (03-actors §5.2).

use nihilo_entity::ShardTable;
use nihilo_entity::rows::is_counted;

use super::Verdict;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    n_counted: usize,
    next_instance: u64,
}

impl Counts {
    pub(crate) fn of(table: &ShardTable) -> Self {
        let counted = table.instances.values().filter(|row| is_counted(row));
        Self {
            n_counted: counted.count(),
            next_instance: table.next_instance,
        }
    }

    pub(crate) fn still(self, table: &ShardTable) -> Verdict {
        let now = Self::of(table);
        match now == self {
            true => Ok(()),
            false => Err(format!("{self:?} before the reload, {now:?} after it")),
        }
    }
}
