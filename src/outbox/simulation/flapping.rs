//! A platform that is silent and up in turn: everything is delivered, and every message gets its first attempt in time.

use super::*;

/// How long the platform is up, and then silent.
const PHASE: u32 = 5;
/// The longest time from a message to the first attempt of its first call.
const LIMIT: u32 = 90;
/// How long messages are sent, in seconds.
const SENDING: u32 = 120;
/// How long the last of them may take: the longest delay, several times.
const ENDING: u32 = 6000;

async fn flap(seed: u64) -> Result<(), String> {
    let mut random = StdRng::seed_from_u64(seed);
    CHANCE.set(StdRng::seed_from_u64(seed));
    let processes = random.random_range(1..=2);
    let clock = ManualClock::new();
    let world = Rc::new(World {
        random: RefCell::new(random),
        tables: Rc::default(),
        mood: Cell::new(Mood::Up),
        is_calm: Cell::new(true),
        requests: RefCell::default(),
        deleted: RefCell::default(),
        violations: RefCell::default(),
    });
    let replies: Replies = Rc::default();
    let mut lives: Vec<Option<Life>> = (0..processes)
        .map(|number| Some(Life::start(&world, number, &clock)))
        .collect();
    // The first key of each message that was not attempted yet, and when it was sent.
    let mut waiting: Vec<(String, u32)> = Vec::new();
    let (mut sent, mut longest) = (0, 0);
    let mut second = 0;
    while second < SENDING + ENDING {
        let is_silent = (second / PHASE) % 2 == 1;
        world.mood.set(if is_silent { Mood::Silent } else { Mood::Up });
        if second < SENDING && world.chance(2) {
            sent += 1;
            // Each message has a target of its own: no other message holds it up.
            let message = Scripted {
                number: sent,
                session: world.chance(2).then_some(sent),
                issue: sent,
                reply_when: ReplyWhen::Done,
            };
            let life = lives[world.pick(u32::try_from(processes).unwrap()) as usize]
                .as_ref()
                .unwrap();
            waiting.extend(
                life.send(&message, None, &replies)
                    .into_iter()
                    .take(1)
                    .map(|key| (key, second)),
            );
        }
        run_all(&mut lives, 60).await;
        // The calls that are left have failed, and wait for their delays.
        let step = if second >= SENDING && waiting.is_empty() { 7 } else { 1 };
        clock.advance(step * SECOND);
        run_all(&mut lives, 60).await;
        let requests = world.requests.borrow();
        waiting.retain(|(key, since)| {
            longest = longest.max(second - since);
            !requests.attempted.contains(key)
        });
        if second >= SENDING && waiting.is_empty() && world.tables.borrow().waiting() == 0 {
            break;
        }
        second += step;
    }
    let left = world.tables.borrow().waiting();
    if left > 0 {
        world.violation(format!("{left} calls are left"));
    }
    if longest > LIMIT {
        world.violation(format!("a message was not attempted for {longest} s"));
    }
    let violations = world.violations.borrow();
    if violations.is_empty() {
        Ok(())
    } else {
        Err(format!("seed {seed}: {}", violations.join("; ")))
    }
}

#[test]
fn a_platform_that_is_silent_every_5_s_gets_everything_and_starves_no_message() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let seeds = 0..setting("FLAPPING_SEEDS").unwrap_or(20);
    let failures: Vec<_> = seeds.filter_map(|seed| runtime.block_on(flap(seed)).err()).collect();
    assert!(failures.is_empty(), "{failures:#?}");
}
