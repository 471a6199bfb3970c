//! Settling calls, many in one transaction: the lanes are locked, and each kind of change is one statement.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    rc::Rc,
};

use tokio_postgres::Row;

use super::super::{Change, LaneClaim, Settled, Settlement, Then, isolated_lane};
use super::{
    changes::Changes,
    error::PgResult,
    lanes::{self, LaneRow, Park},
    owner::Owner,
    params::{text, texts},
    rows::milliseconds,
    session::{Answer, Transaction},
};
use crate::{call_id::CallId, error::ParkReason};

/// In the order of their names, lest two posters wait for each other.
const LOCK: &str = "
    SELECT id, name, owner, claim, round, taken, next_seq FROM @lanes WHERE queue = $1 AND name = ANY($2)
    ORDER BY name FOR UPDATE";

/// Writes what became of calls, if their lanes are this owner's under the claims.
pub(super) async fn settle(
    transaction: &Transaction<'_>,
    owner: &mut Owner,
    settlements: &[&Settlement],
) -> PgResult<Vec<Settled>> {
    let mut entered = Some(owner.enter(transaction));
    let mut settled: Vec<(usize, Settled)> = Vec::with_capacity(settlements.len());
    let mut waves = waves(settlements);
    let last = waves.pop().unwrap_or_default();
    for wave in waves {
        settled.extend(settle_wave(transaction, owner, &wave, entered.take(), Ending::GoOn).await?);
    }
    settled.extend(settle_wave(transaction, owner, &last, entered.take(), Ending::Commit).await?);
    settled.sort_by_key(|(place, _)| *place);
    Ok(settled.into_iter().map(|(_, settled)| settled).collect())
}

/// The settlements of one lane that are written at once, in their order, each with its place among all.
type Group<'a> = Vec<(usize, &'a Settlement)>;

/// Splits settlements, so that those of a wave do not depend on each other: of a lane, a wave has settlements under one
/// claim, and the lane goes on after all of them but the last. Pure.
fn waves<'a>(settlements: &[&'a Settlement]) -> Vec<Vec<Group<'a>>> {
    let mut waves: Vec<BTreeMap<&str, Group<'a>>> = Vec::new();
    // The first wave that may have the next settlement of a lane.
    let mut open: HashMap<&str, usize> = HashMap::new();
    for (place, &settlement) in settlements.iter().enumerate() {
        let lane = settlement.lane.lane.as_str();
        let wave = open.entry(lane).or_default();
        let group = waves.get(*wave).and_then(|wave| wave.get(lane));
        if group.is_some_and(|group| !may_join(group, settlement)) {
            *wave = wave.saturating_add(1);
        }
        if waves.len() <= *wave {
            waves.push(BTreeMap::new());
        }
        if let Some(wave) = waves.get_mut(*wave) {
            wave.entry(lane).or_default().push((place, settlement));
        }
    }
    waves.into_iter().map(|wave| wave.into_values().collect()).collect()
}

fn may_join(group: &Group<'_>, settlement: &Settlement) -> bool {
    group
        .iter()
        .all(|(_, other)| other.lane == settlement.lane && matches!(other.then, Then::Stay | Then::Continue))
}

/// What follows the changes of a wave.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    GoOn,
    /// Sent together with the changes.
    Commit,
}

async fn settle_wave(
    transaction: &Transaction<'_>,
    owner: &Owner,
    groups: &[Group<'_>],
    before: Option<Answer<'_, Vec<Row>>>,
    ending: Ending,
) -> PgResult<Vec<(usize, Settled)>> {
    let queue = Rc::clone(&owner.queue);
    let claim = |group: &Group<'_>| group.first().map(|(_, settlement)| settlement.lane.clone());
    let claims: Vec<LaneClaim> = groups.iter().filter_map(claim).collect();
    let names = texts(claims.iter().map(|claim| claim.lane.as_str()));
    let locked = transaction.ask(LOCK, [text(&queue), names]);
    if let Some(before) = before {
        before.await?;
    }
    let rows = locked.await?;
    let rows: Vec<_> = rows.iter().map(LaneRow::read).collect::<PgResult<_>>()?;
    let rows: HashMap<&str, &LaneRow> = rows.iter().map(|row| (row.name.as_str(), row)).collect();
    let mut wave = Wave::default();
    let mut current = Vec::new();
    let mut settled = Vec::new();
    for (group, claim) in groups.iter().zip(&claims) {
        let row = rows.get(claim.lane.as_str()).copied();
        match row.filter(|row| row.owner == Some(owner.id) && row.claim == claim.claim) {
            Some(row) => {
                for (_, settlement) in group {
                    wave.add(owner.id, row, settlement);
                }
                current.push((row.id, group));
            }
            None => {
                let answer = |settlement| {
                    if owner.doubts.has_settlement(settlement) {
                        repeated(row, claim)
                    } else {
                        Settled::NotCurrent
                    }
                };
                settled.extend(group.iter().map(|(place, settlement)| (*place, answer(settlement))));
            }
        }
    }
    let released = wave.write(transaction, &queue, ending).await?;
    for (lane, group) in current {
        let last = group.last().map(|(place, _)| *place);
        let answer = |place| Settled::Done {
            is_released: last == Some(place) && released.contains(&lane),
        };
        settled.extend(group.iter().map(|(place, _)| (*place, answer(*place))));
    }
    Ok(settled)
}

/// The answer to a settlement whose first answer was lost, if the lane is not current any more. Pure.
fn repeated(row: Option<&LaneRow>, claim: &LaneClaim) -> Settled {
    match row {
        // It was removed with its last call.
        None => Settled::Done { is_released: false },
        // It was released, and nobody has claimed it since.
        Some(row) if row.owner.is_none() && row.claim == claim.claim => Settled::Done { is_released: true },
        Some(_) => Settled::NotCurrent,
    }
}

/// What is written for settlements of several lanes.
#[derive(Default)]
struct Wave {
    changes: Changes,
    parked: Vec<(i64, Park)>,
    /// The lanes that messages move to, each with its message.
    isolated: Vec<(String, Vec<CallId>, Park)>,
    /// The lanes that go on.
    continued: Vec<i64>,
}

impl Wave {
    fn add(&mut self, owner: i64, lane: &LaneRow, settlement: &Settlement) {
        let stays = !matches!(settlement.then, Then::Park { .. });
        for (id, change) in &settlement.changes {
            self.changes.add(lane.id, *id, change, stays);
        }
        match settlement.then {
            Then::Stay => {}
            Then::Continue => self.continued.push(lane.id),
            Then::Park { wait, reason } => {
                let park = Park {
                    wait: milliseconds(wait),
                    by: if reason.is_outage() { 0 } else { owner },
                    reason: Some(reason),
                };
                self.parked.push((lane.id, park));
            }
            Then::Isolate { wait, reason } => {
                let kept = settlement.changes.iter();
                let kept: Vec<_> = kept
                    .filter(|(_, change)| matches!(change, Change::Keep(_)))
                    .map(|(id, _)| *id)
                    .collect();
                let park = Park {
                    wait: milliseconds(wait),
                    by: owner,
                    reason: Some(reason),
                };
                let own = kept.first().map(|first| isolated_lane(&lane.name, *first));
                self.isolated.extend(own.map(|own| (own, kept, park)));
                self.continued.push(lane.id);
            }
        }
    }

    /// Writes all of it in one round trip. Returns the lanes that were released with calls left.
    async fn write(&self, transaction: &Transaction<'_>, queue: &str, ending: Ending) -> PgResult<HashSet<i64>> {
        let mut answers: Vec<Answer<'_, Vec<Row>>> = self.changes.ask(transaction);
        for (own, calls, park) in &self.isolated {
            for call in calls {
                let reason = park.reason.unwrap_or(ParkReason::AttemptsFailed);
                answers.push(lanes::append(transaction, (queue, own), *call, reason));
            }
            answers.push(lanes::park_free(transaction, (queue, own), *park));
        }
        let parked = lanes::park(transaction, &self.parked);
        let lanes: Vec<_> = self
            .parked
            .iter()
            .map(|(lane, _)| *lane)
            .chain(self.continued.iter().copied())
            .collect();
        let removed = lanes::remove_empty(transaction, &lanes);
        let released = lanes::release_untaken(transaction, &self.continued);
        let committed = (ending == Ending::Commit).then(|| transaction.commit());
        for answer in answers {
            answer.await?;
        }
        parked.await?;
        let removed = lanes::read_ids(&removed.await?)?;
        let released = released.await?;
        if let Some(committed) = committed {
            committed.await?;
        }
        let mut released: HashSet<i64> = lanes::read_ids(&released)?.into_iter().collect();
        released.extend(self.parked.iter().map(|(lane, _)| *lane));
        released.retain(|lane| !removed.contains(lane));
        Ok(released)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn settlement(lane: &str, claim: i64, then: Then) -> Settlement {
        Settlement {
            lane: LaneClaim {
                lane: lane.to_owned(),
                claim,
            },
            changes: Vec::new(),
            then,
            now: 0,
        }
    }

    fn park() -> Then {
        Then::Park {
            wait: Duration::ZERO,
            reason: ParkReason::AttemptsFailed,
        }
    }

    #[test]
    fn a_wave_ends_where_a_settlement_depends_on_the_one_before() {
        let settlements = [
            settlement("a", 1, Then::Continue),
            settlement("b", 2, park()),
            settlement("a", 1, park()),
            settlement("a", 1, Then::Continue),
            settlement("b", 3, Then::Continue),
            settlement("c", 4, Then::Continue),
        ];
        let all: Vec<_> = settlements.iter().collect();
        let places = |group: &Group<'_>| group.iter().map(|(place, _)| *place).collect::<Vec<_>>();
        let waves: Vec<Vec<_>> = waves(&all)
            .iter()
            .map(|wave| wave.iter().map(places).collect())
            .collect();
        assert_eq!(waves, [vec![vec![0, 2], vec![1], vec![5]], vec![vec![3], vec![4]]]);
    }

    #[test]
    fn a_repeated_settlement_of_a_lane_that_it_has_released_was_written() {
        let claim = LaneClaim {
            lane: "a".into(),
            claim: 5,
        };
        let row = |owner, claim| LaneRow {
            id: 1,
            name: "a".into(),
            owner,
            claim,
            round: 0,
            taken: 0,
            next_seq: 2,
        };
        let done = |is_released| Settled::Done { is_released };
        assert_eq!(repeated(None, &claim), done(false));
        assert_eq!(repeated(Some(&row(None, 5)), &claim), done(true));
        assert_eq!(repeated(Some(&row(Some(9), 6)), &claim), Settled::NotCurrent);
        assert_eq!(repeated(Some(&row(None, 6)), &claim), Settled::NotCurrent);
        // Another owner has freed it.
        assert_eq!(repeated(Some(&row(None, 0)), &claim), Settled::NotCurrent);
    }
}
