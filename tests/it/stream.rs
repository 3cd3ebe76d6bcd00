//! `rtp stream` from the embedded log into the embedded store.

use crate::common::{Place, Ran, eventually, user, users};

const STORE: &str = ".rtp/realtime.db";
const LOG: &str = ".rtp/log.db";

fn stream(place: &Place, more: &[&str]) -> Ran {
    place.rtp(&[&["stream", "--until-end"], more].concat(), b"")
}

#[test]
fn every_event_reaches_the_store_once() {
    let place = Place::ready();
    place.rtp(&["produce"], users(25_000).as_bytes());
    let ran = stream(&place, &["--max-batch", "1000"]);
    assert_eq!(
        (ran.status, ran.counts()),
        (0, [25_000, 25_000, 0, 0, 0]),
        "{}",
        ran.stderr
    );
    assert_eq!(place.query(STORE, "SELECT count(*) FROM users"), "25000");
    let row = "SELECT first_name || post_code || fetched_at FROM users WHERE id = '00000000-0000-4000-8000-000000000007'";
    assert_eq!(place.query(STORE, row), "Zoë123452026-11-01T00:00:00.000Z");
    assert_eq!(
        place.query(STORE, "SELECT count(*) FROM users WHERE last_name IS NULL"),
        "25000"
    );
    assert_eq!(
        place.query(LOG, "SELECT sum(offset) FROM group_offsets"),
        "25000"
    );
    let again = stream(&place, &[]);
    assert_eq!((again.status, again.counts()), (0, [0; 5]));
}

#[test]
fn a_follower_stores_full_batches_that_nothing_follows() {
    let place = Place::ready();
    place.rtp(&["produce"], users(6_000).as_bytes());
    let following = place.start(&["stream", "--max-batch", "2000"]);
    eventually("every row is stored", || {
        place.query(STORE, "SELECT count(*) FROM users") == "6000"
    });
    following.signal("TERM");
    let ran = following.end();
    assert_eq!((ran.status, ran.counts()[1]), (0, 6_000), "{}", ran.stderr);
}

#[test]
fn the_newest_event_of_a_key_wins_in_any_order() {
    let place = Place::ready();
    let lines = [
        user(1, 2, "new"),
        user(1, 1, "old"),
        user(1, 2, "newer-by-digest?"),
        user(2, 0, "x"),
    ];
    let mut stored = Vec::new();
    for order in [[0, 1, 2, 3], [2, 1, 0, 3], [1, 2, 3, 0]] {
        let place = Place::ready();
        for i in order {
            place.rtp(&["produce"], lines[i].as_bytes());
        }
        let ran = stream(&place, &[]);
        assert_eq!(ran.counts()[3], 2, "{}", ran.stderr);
        stored.push(place.query(STORE, "SELECT group_concat(email) FROM users"));
    }
    assert!(stored.iter().all(|s| *s == stored[0]), "{stored:?}");
    place.rtp(&["produce"], lines[0].as_bytes());
    stream(&place, &[]);
    place.rtp(&["produce"], lines[1].as_bytes());
    let late = stream(&place, &[]);
    assert_eq!((late.status, late.counts()), (0, [1, 0, 0, 0, 1]));
    assert_eq!(place.query(STORE, "SELECT email FROM users"), "new");
}

#[test]
fn bad_events_become_dead_letters_and_the_stream_goes_on() {
    let place = Place::ready();
    place.rtp(&["produce"], users(10).as_bytes());
    let log = rusqlite::Connection::open(place.path(LOG)).unwrap();
    log.execute(
        "UPDATE events_1_0 SET value = '{\"id\":', headers = NULL WHERE offset = 1",
        [],
    )
    .unwrap();
    log.execute("UPDATE events_1_1 SET value = NULL WHERE offset = 0", [])
        .unwrap();
    let ran = stream(&place, &["--max-batch", "2"]);
    assert_eq!(
        (ran.status, ran.counts()),
        (1, [10, 8, 2, 0, 0]),
        "{}",
        ran.stderr
    );
    let letter = place.query(LOG, "SELECT value FROM events_2_0 WHERE value IS NOT NULL");
    assert_eq!(letter, "{\"id\":");
    let headers = place.query(
        LOG,
        "SELECT headers FROM events_2_0 WHERE value IS NOT NULL",
    );
    assert!(
        headers.contains("__connect.errors.partition") && headers.contains("json_syntax"),
        "{headers}"
    );
    assert_eq!(
        place.query(LOG, "SELECT sum(offset) FROM group_offsets"),
        "10"
    );
}

#[test]
fn a_budget_of_dead_letters_stops_with_everything_before_kept() {
    let place = Place::ready();
    place.rtp(&["produce"], users(10).as_bytes());
    let log = rusqlite::Connection::open(place.path(LOG)).unwrap();
    log.execute("UPDATE events_1_0 SET value = 'x'", [])
        .unwrap();
    let ran = stream(&place, &["--max-batch", "1", "--max-dead-letters", "0"]);
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    assert_eq!(ran.counts(), [1, 0, 1, 0, 0]);
    assert_eq!(
        place.query(LOG, "SELECT sum(offset) FROM group_offsets"),
        "1"
    );
}

#[test]
fn a_follower_that_ends_by_an_error_says_that_and_no_more() {
    let place = Place::ready();
    for n in 1..=10 {
        // Enough for each partition, so that the broken one has some.
        place.rtp(&["produce"], users(20).as_bytes());
        let log = rusqlite::Connection::open(place.path(LOG)).unwrap();
        log.execute("UPDATE events_1_0 SET value = 'x'", [])
            .unwrap();
        // While one thread gives up, the other one still looks for events.
        let ran = place.rtp(&["stream", "--max-dead-letters", "0"], b"");
        assert_eq!(ran.status, 3, "{}", ran.stderr);
        let said: Vec<serde_json::Value> = ran
            .stderr
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{n}: {line}")))
            .collect();
        let errors = said.iter().filter(|line| line["level"] == "error");
        assert_eq!(errors.count(), 1, "{}", ran.stderr);
    }
}

#[test]
fn a_row_the_store_refuses_is_a_dead_letter_and_the_others_are_written() {
    // A few events are written as they arrive; a backlog is set aside and merged.
    for events in [10, 5_000] {
        let place = Place::ready();
        place.rtp(&["produce"], users(events).as_bytes());
        let store = rusqlite::Connection::open(place.path(STORE)).unwrap();
        store
            .execute_batch(
                "CREATE TRIGGER no BEFORE INSERT ON users_rows WHEN hex(NEW.id) LIKE '%3'
                 BEGIN SELECT RAISE(ABORT, 'no threes'); END",
            )
            .unwrap();
        let ran = stream(&place, &["--max-batch", "1000"]);
        let refused = events / 10;
        assert_eq!(
            (ran.status, ran.counts()),
            (1, [events, events - refused, refused, 0, 0]),
            "{}",
            ran.stderr
        );
        let letters = "SELECT count(*) FROM events_2_0";
        assert_eq!(place.query(LOG, letters), refused.to_string());
        let headers = place.query(LOG, "SELECT headers FROM events_2_0");
        assert!(headers.contains("no threes"), "{headers}");
    }
}

#[test]
fn a_backlog_is_stored_in_one_go_with_its_dead_letters() {
    let place = Place::ready();
    let lines = users(3_000) + &user(7, 9, "newer") + "\n" + &user(7, 8, "older") + "\n";
    place.rtp(&["produce"], lines.as_bytes());
    let log = rusqlite::Connection::open(place.path(LOG)).unwrap();
    let spoil = "UPDATE events_1_1 SET value = 'x' WHERE offset IN (5, 6)";
    assert_eq!(log.execute(spoil, []).unwrap(), 2);
    let ran = stream(&place, &["--max-batch", "1000"]);
    let [read, written, rejected, deduplicated, skipped] = ran.counts();
    assert_eq!((ran.status, read, rejected, skipped), (1, 3_002, 2, 0));
    assert!(
        written >= 2_997 && written + deduplicated == 3_000,
        "{}",
        ran.stderr
    );
    assert_eq!(place.query(LOG, "SELECT count(*) FROM events_2_0"), "2");
    let email = "SELECT email FROM users WHERE id LIKE '%000000000007'";
    assert_eq!(place.query(STORE, email), "newer");
    let offsets = "SELECT sum(offset) FROM group_offsets";
    assert_eq!(place.query(LOG, offsets), "3002");
}

#[test]
fn a_recreated_store_is_filled_again() {
    let place = Place::ready();
    place.rtp(&["produce"], users(100).as_bytes());
    stream(&place, &[]);
    for file in ["realtime.db", "realtime.db-wal", "realtime.db-shm"] {
        std::fs::remove_file(place.path(".rtp").join(file)).ok();
    }
    place.rtp(&["init"], b"");
    assert_eq!(stream(&place, &[]).counts()[1], 100);
}

#[test]
fn streams_of_one_group_share_the_work_and_lose_nothing() {
    let place = Place::ready();
    place.rtp(&["produce"], users(6_000).as_bytes());
    let written: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let ran = stream(&place, &["--max-batch", "100"]);
                    assert_eq!(ran.status, 0, "{}", ran.stderr);
                    ran.counts()[1]
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(written.iter().sum::<u64>(), 6_000);
    assert_eq!(place.query(STORE, "SELECT count(*) FROM users"), "6000");
    assert_eq!(
        place.query(LOG, "SELECT sum(offset) FROM group_offsets"),
        "6000"
    );
}

#[test]
fn a_follower_drains_and_ends_0_when_told_to_stop() {
    let place = Place::ready();
    place.rtp(&["produce"], users(1_000).as_bytes());
    for (linger, total) in [("0", 1_000), ("200ms", 2_000), ("1h", 3_000)] {
        let running = place.start(&[
            "stream",
            "--follow",
            "--linger",
            linger,
            "--max-batch",
            "500",
        ]);
        let committed = "SELECT coalesce(sum(offset), 0) FROM group_offsets";
        let has = |n: i64| place.query(LOG, committed) == n.to_string();
        eventually("what was there is stored", || has(total));
        place.rtp(&["produce"], users(1_000).as_bytes());
        // Full micro-batches do not wait for the linger to end.
        eventually("what came later is stored", || has(total + 1_000));
        running.signal("TERM");
        let ran = running.end();
        assert_eq!(
            (ran.status, ran.summary()["exit"].as_u64()),
            (0, Some(0)),
            "{}",
            ran.stderr
        );
    }
    assert_eq!(place.query(STORE, "SELECT count(*) FROM users"), "1000");
    assert_eq!(stream(&place, &[]).counts(), [0; 5]);
    let both = place.rtp(&["stream", "--follow", "--until-end"], b"");
    assert_eq!(both.status, 2);
}

#[test]
fn a_micro_batch_waits_for_more_events_as_long_as_it_is_told() {
    let place = Place::ready();
    let running = place.start(&["stream", "--linger", "1h"]);
    place.rtp(&["produce"], users(10).as_bytes());
    place.rtp(&["produce"], users(10).as_bytes());
    std::thread::sleep(std::time::Duration::from_millis(300)); // enough time to do it wrong
    assert_eq!(place.query(STORE, "SELECT count(*) FROM users"), "0");
    running.signal("TERM");
    let ran = running.end();
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    // Whether it was still written at the stop or left to the next run, nothing is read twice.
    assert_eq!(ran.counts()[0] + stream(&place, &[]).counts()[0], 20);
    assert_eq!(place.query(STORE, "SELECT count(*) FROM users"), "10");
}

#[test]
fn a_kill_at_any_moment_loses_and_doubles_nothing() {
    let place = Place::ready();
    let events = 20_000;
    place.rtp(&["produce"], users(events).as_bytes());
    let mut stored = 0;
    while stored < events {
        let before = stored;
        let running = place.start(&["stream", "--until-end", "--max-batch", "300"]);
        let count = || {
            place
                .query(STORE, "SELECT count(*) FROM users")
                .parse::<u64>()
                .unwrap()
        };
        eventually("a micro-batch is stored", || count() > before);
        running.signal("KILL");
        running.end();
        stored = count();
        let offsets = place.query(STORE, "SELECT sum(offset) FROM rtp_offsets");
        assert_eq!(
            offsets,
            stored.to_string(),
            "rows and offsets are one transaction"
        );
        let committed: u64 = place
            .query(LOG, "SELECT coalesce(sum(offset), 0) FROM group_offsets")
            .parse()
            .unwrap();
        assert!(committed <= stored, "committed before it was durable");
    }
    assert_eq!(place.query(STORE, "PRAGMA integrity_check"), "ok");
    assert_eq!(stream(&place, &[]).counts(), [0; 5]);
    assert_eq!(
        place.query(LOG, "SELECT sum(offset) FROM group_offsets"),
        events.to_string()
    );
}

#[test]
fn no_partition_starves_the_others() {
    let place = Place::ready();
    place.rtp(&["produce"], users(3_000).as_bytes());
    let running = place.start(&["stream", "--max-batch", "10", "--max-dead-letters", "0"]);
    let spread = "SELECT max(offset) - min(offset) FROM rtp_offsets HAVING count(*) = 3";
    let when_all_are_read = std::cell::Cell::new(0);
    eventually("each partition is read", || {
        let spread = place.query(STORE, &format!("SELECT ({spread})")).parse();
        spread.is_ok_and(|spread: u64| {
            when_all_are_read.set(spread);
            true
        })
    });
    let spread = when_all_are_read.get();
    assert!(spread < 700, "one partition is {spread} events ahead");
    running.signal("TERM");
    running.end();
}

#[test]
fn a_locked_store_is_an_outage_and_no_bad_data() {
    let place = Place::ready();
    place.rtp(&["produce"], users(100).as_bytes());
    let lock = rusqlite::Connection::open(place.path(STORE)).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let down = stream(&place, &["--max-outage", "0"]);
    assert_eq!((down.status, down.counts()), (4, [0; 5]), "{}", down.stderr);
    assert!(
        down.stderr.contains("realtime.db") && down.stderr.contains("--max-outage"),
        "{}",
        down.stderr
    );
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| stream(&place, &[]));
        std::thread::sleep(std::time::Duration::from_secs(6)); // longer than SQLite itself waits
        lock.execute_batch("COMMIT").unwrap();
        let ran = waiting.join().unwrap();
        assert_eq!(
            (ran.status, ran.counts()),
            (0, [100, 100, 0, 0, 0]),
            "{}",
            ran.stderr
        );
    });
    assert_eq!(place.query(LOG, "SELECT count(*) FROM events_2_0"), "0");
}

/// A separate log in another folder, with this many events.
fn other_log(place: &Place, count: u64) {
    let ran = place.bash("rtp -q init --event-log sqlite:other/log.db");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let args = ["produce", "--event-log", "sqlite:other/log.db"];
    place.rtp(&args, users(count).as_bytes());
}

#[test]
fn a_log_that_was_deleted_and_created_again_is_not_taken_for_the_one_that_was_read() {
    let place = Place::ready();
    place.rtp(&["produce"], users(277).as_bytes());
    assert_eq!(stream(&place, &[]).status, 0);
    place.bash("rm .rtp/log.db*; rtp -q init");
    place.rtp(&["produce"], users(290).as_bytes());
    let ran = stream(&place, &[]);
    assert_eq!((ran.status, ran.counts()), (5, [0; 5]), "{}", ran.stderr);
    assert!(ran.stderr.contains("--group NEW"), "{}", ran.stderr);
    // The way out that the message suggests.
    let ran = stream(&place, &["--group", "new"]);
    assert_eq!((ran.status, ran.counts()[0]), (0, 290), "{}", ran.stderr);
    assert_eq!(place.query(STORE, "SELECT count(*) FROM users"), "290");
}

#[test]
fn another_log_is_not_taken_for_the_one_that_was_read() {
    let place = Place::ready();
    place.rtp(&["produce"], users(10).as_bytes());
    assert_eq!(stream(&place, &[]).status, 0);
    other_log(&place, 20);
    let ran = stream(&place, &["--event-log", "sqlite:other/log.db"]);
    assert_eq!((ran.status, ran.counts()), (5, [0; 5]), "{}", ran.stderr);
}

#[test]
fn a_log_that_was_restored_from_a_backup_is_shorter_than_what_was_read() {
    let place = Place::ready();
    place.rtp(&["produce"], users(10).as_bytes());
    place.bash("sqlite3 .rtp/log.db 'VACUUM INTO \"backup.db\"'");
    place.rtp(&["produce"], users(20).as_bytes());
    assert_eq!(stream(&place, &[]).status, 0);
    place.bash("rm .rtp/log.db*; cp backup.db .rtp/log.db");
    for mode in ["--until-end", "--follow"] {
        let ran = place.rtp(&["stream", mode], b"");
        assert_eq!((ran.status, ran.counts()), (5, [0; 5]), "{}", ran.stderr);
        assert!(ran.stderr.contains("partition"), "{}", ran.stderr);
    }
}

/// Deletes these events of each partition by hand.
fn delete_events(place: &Place, which: &str) {
    let db = rusqlite::Connection::open(place.path(LOG)).unwrap();
    let partitions = "SELECT partitions FROM topics WHERE id = 1";
    let partitions: u32 = db.query_row(partitions, [], |row| row.get(0)).unwrap();
    for partition in 0..partitions {
        let delete = format!("DELETE FROM events_1_{partition} WHERE {which}");
        assert!(db.execute(&delete, []).unwrap() > 0);
    }
}

#[test]
fn a_log_from_which_events_were_deleted_is_told() {
    for mode in ["--until-end", "--follow"] {
        let place = Place::ready();
        place.rtp(&["produce"], users(3_000).as_bytes());
        delete_events(&place, "offset BETWEEN 100 AND 150");
        let ran = place.rtp(&["stream", mode], b"");
        assert_eq!(ran.status, 5, "{}", ran.stderr);
        let told =
            "the events from offset 100 to 150 are missing, because somebody has deleted them";
        assert!(ran.stderr.contains(told), "{}", ran.stderr);
        // What is before them in this partition is stored and committed.
        let committed = "SELECT count(*) FROM group_offsets WHERE topic = 1 AND offset = 100";
        assert_ne!(place.query(LOG, committed), "0", "{}", ran.stderr);
        let rows = place.query(STORE, "SELECT count(*) FROM users");
        let offsets = "SELECT sum(offset) FROM group_offsets WHERE topic = 1";
        assert_eq!(rows, place.query(LOG, offsets), "{}", ran.stderr);
        // The way out that the message suggests.
        assert!(ran.stderr.contains("--group NEW"), "{}", ran.stderr);
        delete_events(&place, "offset < 151 AND offset NOT BETWEEN 100 AND 150");
        let left = place.query(LOG, "SELECT count(*) FROM user_events");
        let rest = stream(&place, &["--group", "new"]);
        let count = rest.counts()[0].to_string();
        assert_eq!((rest.status, count), (0, left), "{}", rest.stderr);
    }
}

#[test]
fn a_log_from_which_all_that_is_left_to_read_was_deleted_is_told() {
    let place = Place::ready();
    place.rtp(&["produce"], users(100).as_bytes());
    assert_eq!(stream(&place, &[]).status, 0);
    place.rtp(&["produce"], new_users().as_bytes());
    delete_events(&place, "true");
    for _ in 0..2 {
        let ran = stream(&place, &[]);
        assert_eq!((ran.status, ran.counts()), (5, [0; 5]), "{}", ran.stderr);
        assert!(ran.stderr.contains("are missing"), "{}", ran.stderr);
    }
    let checked = place.rtp(&["heartbeat"], b"");
    assert_eq!(checked.status, 5, "{}", checked.stdout);
    let told = "the events from there to offset";
    assert!(checked.stdout.contains(told), "{}", checked.stdout);
    // Nothing is left for another group, which has nothing to miss.
    let ran = stream(&place, &["--group", "new"]);
    assert_eq!((ran.status, ran.counts()), (0, [0; 5]), "{}", ran.stderr);
}

/// A log of 300 events that are read, as a backup; and a log of 400 that are read, too.
fn read_beyond_the_backup(place: &Place) {
    place.rtp(&["produce"], users(300).as_bytes());
    assert_eq!(stream(place, &[]).status, 0);
    let backup = place.bash("sqlite3 .rtp/log.db 'VACUUM INTO \"backup.db\"'");
    assert_eq!(backup.status, 0, "{}", backup.stderr);
    place.rtp(&["produce"], users(100).as_bytes());
    assert_eq!(stream(place, &[]).counts()[0], 100);
}

/// 300 users that nobody has produced yet.
fn new_users() -> String {
    (1_000..1_300)
        .map(|n| user(n, 1, "b@example.com") + "\n")
        .collect()
}

#[test]
fn a_restored_log_that_has_grown_again_is_not_taken_for_the_one_that_was_read() {
    let place = Place::ready();
    read_beyond_the_backup(&place);
    place.bash("rm .rtp/log.db*; cp backup.db .rtp/log.db");
    place.rtp(&["produce"], new_users().as_bytes());
    for mode in ["--until-end", "--follow"] {
        let ran = place.rtp(&["stream", mode], b"");
        assert_eq!((ran.status, ran.counts()), (5, [0; 5]), "{}", ran.stderr);
        for said in ["partition", "is not the one that was read", "--group NEW"] {
            assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
        }
    }
    // The way out that the message suggests.
    let ran = stream(&place, &["--group", "new"]);
    assert_eq!((ran.status, ran.counts()[0]), (0, 600), "{}", ran.stderr);
    assert_eq!(place.query(STORE, "SELECT count(*) FROM users"), "600");
    assert_eq!(stream(&place, &["--group", "new"]).counts(), [0; 5]);
}

/// The events of some users again, all in this partition.
fn more_in(place: &Place, partition: u32, email: &str) {
    let of = format!("SELECT CAST(value AS TEXT) FROM events_1_{partition}");
    let event = place.query(LOG, &of) + "\n";
    let event = event.replace("a@example.com", email).repeat(5);
    assert_eq!(place.rtp(&["produce"], event.as_bytes()).status, 0);
}

#[test]
fn a_partition_that_ends_too_early_is_told_although_another_goes_on() {
    let place = Place::ready();
    place.rtp(&["produce"], users(300).as_bytes());
    assert_eq!(stream(&place, &[]).status, 0);
    place.bash("sqlite3 .rtp/log.db 'VACUUM INTO \"backup.db\"'");
    more_in(&place, 0, "lost@example.com");
    assert_eq!(stream(&place, &[]).counts()[0], 5);
    place.bash("rm .rtp/log.db*; cp backup.db .rtp/log.db");
    more_in(&place, 1, "next@example.com");
    for mode in ["--until-end", "--follow"] {
        let ran = place.rtp(&["stream", mode], b"");
        assert_eq!((ran.status, ran.counts()), (5, [0; 5]), "{}", ran.stderr);
        for said in ["partition 0", "but it ends at", "--group NEW"] {
            assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
        }
    }
}

#[test]
fn a_restored_log_with_the_same_events_is_read_on() {
    let place = Place::ready();
    read_beyond_the_backup(&place);
    place.bash(
        "sqlite3 .rtp/log.db 'VACUUM INTO \"later.db\"'; rm .rtp/log.db*; cp later.db .rtp/log.db",
    );
    place.rtp(&["produce"], new_users().as_bytes());
    let ran = stream(&place, &[]);
    assert_eq!((ran.status, ran.counts()[0]), (0, 300), "{}", ran.stderr);
}

#[test]
fn a_follower_sees_that_its_log_was_restored_where_it_is() {
    let place = Place::ready();
    read_beyond_the_backup(&place);
    place.bash("cp backup.db grown.db");
    let grown = ["produce", "--event-log", "sqlite:grown.db"];
    assert_eq!(place.rtp(&grown, new_users().as_bytes()).status, 0);
    let following = place.start(&["stream"]);
    place.rtp(&["produce"], user(5_000, 0, "c").as_bytes());
    eventually("it follows", || {
        place.query(STORE, "SELECT count(*) FROM users WHERE email = 'c'") == "1"
    });
    // Into the file that is open, in one transaction.
    let restored = place.bash("sqlite3 .rtp/log.db '.timeout 10000' '.restore grown.db'");
    assert_eq!(restored.status, 0, "{}", restored.stderr);
    let ran = following.end();
    assert_eq!((ran.status, ran.counts()[0]), (5, 1), "{}", ran.stderr);
    let said = "is not the one that was read";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
}

#[test]
fn a_follower_sees_that_its_log_is_another_file() {
    let place = Place::ready();
    place.rtp(&["produce"], users(10).as_bytes());
    other_log(&place, 5);
    let following = place.start(&["stream"]);
    eventually("the first events are stored", || {
        place.query(STORE, "SELECT count(*) FROM users") == "10"
    });
    place.bash("rm .rtp/log.db-wal .rtp/log.db-shm; mv other/log.db .rtp/log.db");
    let ran = following.end();
    assert_eq!((ran.status, ran.counts()[0]), (5, 10), "{}", ran.stderr);
    assert!(ran.stderr.contains("replaced"), "{}", ran.stderr);
}

#[test]
fn a_follower_sees_that_its_store_is_another_file() {
    let place = Place::ready();
    place.rtp(&["produce"], users(10).as_bytes());
    let stored = || place.query(STORE, "SELECT count(*) FROM users");
    let following = place.start(&["stream"]);
    eventually("the first events are stored", || stored() == "10");
    place.bash("rm .rtp/realtime.db*; rtp -q init");
    place.rtp(&["produce"], new_users().as_bytes());
    let ran = following.end();
    assert_eq!((ran.status, ran.counts()[0]), (5, 10), "{}", ran.stderr);
    assert!(ran.stderr.contains("replaced"), "{}", ran.stderr);
    // The way out that the message suggests.
    assert_eq!(stream(&place, &[]).status, 0);
    assert_eq!(stored(), "310");
}

#[test]
fn a_log_and_a_store_of_an_older_version_are_changed_by_init_and_go_on() {
    let place = Place::ready();
    place.rtp(&["produce"], users(10).as_bytes());
    assert_eq!(stream(&place, &[]).status, 0);
    place.bash(
        "sqlite3 .rtp/log.db 'ALTER TABLE topics DROP COLUMN identity'
         sqlite3 .rtp/realtime.db 'ALTER TABLE rtp_offsets DROP COLUMN identity'
         sqlite3 .rtp/realtime.db 'ALTER TABLE rtp_offsets DROP COLUMN mark'",
    );
    let ran = place.rtp(&["produce"], users(1).as_bytes());
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("rtp init"), "{}", ran.stderr);
    place.rtp(&["init"], b"");
    place.rtp(&["produce"], users(20).as_bytes());
    let ran = stream(&place, &[]);
    assert_eq!((ran.status, ran.counts()[0]), (0, 20), "{}", ran.stderr);
    let unmarked = "SELECT count(*) FROM rtp_offsets WHERE mark IS NULL OR identity = ''";
    assert_eq!(place.query(STORE, unmarked), "0");
}

#[test]
fn a_store_of_the_last_version_is_changed_by_init_and_goes_on() {
    let place = Place::ready();
    place.rtp(&["produce"], users(10).as_bytes());
    assert_eq!(stream(&place, &[]).status, 0);
    place.bash("sqlite3 .rtp/realtime.db 'ALTER TABLE rtp_offsets DROP COLUMN mark'");
    place.rtp(&["produce"], users(20).as_bytes());
    for command in [&["stream", "--until-end"][..], &["heartbeat"]] {
        let ran = place.rtp(command, b"");
        assert_eq!(ran.status, 2, "{}", ran.stderr);
        let said = ran.stderr.clone() + &ran.stdout;
        assert!(said.contains("rtp init"), "{said}");
    }
    place.rtp(&["init"], b"");
    let ran = stream(&place, &[]);
    assert_eq!((ran.status, ran.counts()[0]), (0, 20), "{}", ran.stderr);
}

#[test]
fn a_clock_that_is_behind_the_logs_makes_no_event_future() {
    let now = rtp::time::now_ms();
    let hour = 3_600_000;
    // When the log took the events, and their event time, both after our own clock.
    for (logged, time, good) in [(2, 2, true), (0, 2, false), (2, 4, false), (2, 0, true)] {
        let place = Place::ready();
        place.rtp(&["produce"], users(10).as_bytes());
        let time = rtp::time::format_ms(now + time * hour);
        let log = rusqlite::Connection::open(place.path(LOG)).unwrap();
        for partition in 0..3 {
            let later = format!(
                "UPDATE events_1_{partition} SET timestamp = ?1, value = replace(value, '2026-11-01T00:00:00Z', ?2)"
            );
            log.execute(&later, (now + logged * hour, &time)).unwrap();
        }
        let ran = stream(&place, &["--max-batch", "3"]);
        let (status, counts) = match good {
            true => (0, [10, 10, 0, 0, 0]),
            false => (1, [10, 0, 10, 0, 0]),
        };
        assert_eq!(
            (ran.status, ran.counts()),
            (status, counts),
            "{}",
            ran.stderr
        );
        let warnings = ran.stderr.matches("behind the event log").count();
        assert_eq!(warnings, usize::from(logged > 0), "{}", ran.stderr);
    }
}

#[test]
fn dead_letters_are_told_by_rule_and_field_with_their_first_place() {
    let place = Place::ready();
    place.rtp(&["produce"], users(10).as_bytes());
    let log = rusqlite::Connection::open(place.path(LOG)).unwrap();
    let bad = "UPDATE events_1_0 SET value = '{\"id\":1}' WHERE offset > 0";
    let changed = log.execute(bad, []).unwrap();
    assert!(changed > 0);
    for size in ["10000", "1"] {
        let ran = stream(&place, &["--max-batch", size, "--group", size]);
        let rejects = &ran.summary()["rejects"];
        let first = serde_json::json!({"source": "user_events", "partition": 0, "offset": 1});
        let group = serde_json::json!([{
            "rule": "type", "field": "id", "count": changed, "first": first,
            "reason": "expected uuid, got a number", "to": "topic user_events.dlq",
        }]);
        assert_eq!(*rejects, group, "{size}: {}", ran.stderr);
    }
}

#[test]
fn a_follower_judges_the_share_of_dead_letters_at_its_end() {
    for (limit, status) in [("50%", 3), ("100%", 1)] {
        let place = Place::ready();
        place.rtp(&["produce"], users(10).as_bytes());
        let log = rusqlite::Connection::open(place.path(LOG)).unwrap();
        for partition in 0..3 {
            let bad = format!("UPDATE events_1_{partition} SET value = 'x'");
            log.execute(&bad, []).unwrap();
        }
        let running = place.start(&["stream", "--max-dead-letters", limit]);
        let letters = "SELECT count(*) FROM events_2_0";
        eventually("ten dead letters", || place.query(LOG, letters) == "10");
        running.signal("TERM");
        let ran = running.end();
        assert_eq!(
            (ran.status, ran.counts()[2]),
            (status, 10),
            "{limit}: {}",
            ran.stderr
        );
    }
}

#[test]
fn hours_before_1970_start_before_their_events() {
    let place = Place::ready();
    let hours = [
        ("1969-12-31T23:59:59.999Z", "1969-12-31T23:00:00Z"),
        ("1969-12-31T23:00:00Z", "1969-12-31T23:00:00Z"),
        ("1969-12-31T22:30:00Z", "1969-12-31T22:00:00Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
        ("1970-01-01T01:59:59Z", "1970-01-01T01:00:00Z"),
    ];
    let input: String = (0..)
        .zip(&hours)
        .map(|(n, (time, _))| user(n, 0, "e").replace("2026-11-01T00:00:00Z", time) + "\n")
        .collect();
    place.rtp(&["produce"], input.as_bytes());
    assert_eq!(stream(&place, &[]).status, 0);
    for (time, hour) in hours {
        let sql = format!(
            "SELECT hour FROM users_by_hour WHERE substr(fetched_at, 1, 19) = substr('{time}', 1, 19)"
        );
        assert_eq!(place.query(STORE, &sql), hour, "{time}");
    }
}
