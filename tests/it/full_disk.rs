//! A disk that is full: it is waited for, and nothing is lost or written twice once there is room; after `--max-outage`, the
//! command ends with 4 and says what is kept. The disk is a small file system in memory, which only a process of the test
//! sees.

use std::io::Write as _;
use std::process::Command;

use crate::common::{Mock, Place, Ran, users};

const RECORDS: u64 = 3_000;

/// What leads into a mount namespace of one's own: as an ordinary user, as root, or as one who may become root.
const WAYS: [&[&str]; 3] = [
    &["unshare", "-rm"],
    &["unshare", "-m"],
    &["sudo", "-n", "unshare", "-m"],
];

/// The way that works here; if none does, says that the test does not run, which is a failure under CI.
fn way() -> Option<&'static [&'static str]> {
    let mount = "mount -t tmpfs none /mnt";
    let works = |way: &&&[&str]| {
        let tried = Command::new(way[0])
            .args(&way[1..])
            .args(["sh", "-c", mount])
            .output();
        tried.is_ok_and(|out| out.status.success())
    };
    let way = WAYS.iter().find(works).copied();
    if way.is_none() {
        let test = std::thread::current();
        let name = test.name().unwrap_or("a test");
        let message = format!("{name} does not run: this user may not mount a file system\n");
        assert!(std::env::var_os("CI").is_none(), "{message}");
        std::io::stderr().write_all(message.as_bytes()).unwrap();
    }
    way
}

/// Runs `rtp COMMAND` where the folder `disk` has little room. `freed` says whether it gets some once the command waits
/// for it. What is in the folder at the end is then in `kept`.
fn run(way: &[&str], place: &Place, command: &str, freed: bool) -> Ran {
    let binary = env!("CARGO_BIN_EXE_rtp");
    let wait = match freed {
        true => {
            "until grep -q 'waiting for it' said; do kill -0 $! || { cat said; exit 99; }; sleep 0.02; done; rm disk/filler;"
        }
        false => "",
    };
    let script = format!(
        "mount -t tmpfs -o size=8m none disk
         [ ! -e before ] || cp before/* disk/
         cat /dev/zero > disk/filler 2> /dev/null || true
         truncate -s -300K disk/filler
         {binary} --log-format json {command} < /dev/null > out 2> said &
         {wait}
         status=0; wait $! || status=$?
         rm -f disk/filler; cp disk/* kept/ || true
         cat said >&2; exit $status"
    );
    std::fs::create_dir(place.path("disk")).unwrap();
    std::fs::create_dir(place.path("kept")).unwrap();
    let out = Command::new(way[0])
        .args(&way[1..])
        .args(["bash", "-eu", "-c", &script])
        .current_dir(place.root())
        .env("TMPDIR", place.root())
        .output();
    Ran::of(out.unwrap())
}

/// A command whose file is on the full disk.
struct Case {
    command: &'static str,
    /// The file, and how many records it has.
    file: &'static str,
    count: fn(&Place, &str) -> u64,
    status: i32,
}

fn rows(place: &Place, file: &str) -> u64 {
    let table = match file {
        "kept/log.db" => "user_events",
        "kept/realtime.db" => "users",
        _ => "batch_users",
    };
    let count = place.query(file, &format!("SELECT count(*) FROM {table}"));
    count.parse().unwrap()
}

/// The records of a file, without one that the disk had no room to end; 0 without the file.
fn lines(place: &Place, file: &str) -> u64 {
    let text = std::fs::read_to_string(place.path(file)).unwrap_or_default();
    let ended = text.split_inclusive('\n').filter(|l| l.ends_with('\n'));
    ended
        .map(serde_json::from_str::<serde_json::Value>)
        .map(Result::unwrap)
        .count() as u64
}

const CASES: [Case; 5] = [
    Case {
        command: "produce in.ndjson --event-log sqlite:disk/log.db",
        file: "kept/log.db",
        count: rows,
        status: 0,
    },
    Case {
        command: "stream --until-end --realtime-store sqlite:disk/realtime.db",
        file: "kept/realtime.db",
        count: rows,
        status: 0,
    },
    Case {
        command: "load-batch in.ndjson --batch-store sqlite:disk/batch.db",
        file: "kept/batch.db",
        count: rows,
        status: 0,
    },
    Case {
        command: "produce bad.ndjson --rejects disk/rejects.ndjson",
        file: "kept/rejects.ndjson",
        count: lines,
        status: 1,
    },
    Case {
        command: "fetch --count 3000 --out disk/landing.ndjson --api API",
        file: "kept/landing.ndjson",
        count: lines,
        status: 0,
    },
];

impl Case {
    /// The folder with what the command needs. A database is first made in the folder `before`, because it is on the disk
    /// before that is full.
    fn place(&self) -> Place {
        let place = Place::ready();
        place.write("in.ndjson", users(RECORDS));
        place.write(
            "bad.ndjson",
            "{\"id\":\"not a uuid\"}\n".repeat(RECORDS as usize),
        );
        if self.command.starts_with("stream") {
            let ran = place.rtp(&["produce", "in.ndjson"], b"");
            assert_eq!(ran.status, 0, "{}", ran.stderr);
        }
        if let Some(name) = self
            .file
            .strip_prefix("kept/")
            .filter(|f| f.ends_with(".db"))
        {
            std::fs::create_dir(place.path("before")).unwrap();
            std::fs::copy(
                place.path(&format!(".rtp/{name}")),
                place.path(&format!("before/{name}")),
            )
            .unwrap();
        }
        place
    }

    fn run(&self, way: &[&str], place: &Place, outage: &str, api: &str, freed: bool) -> Ran {
        let command = self.command.replace("API", api);
        run(
            way,
            place,
            &format!("{command} --max-outage {outage}"),
            freed,
        )
    }
}

#[test]
fn a_full_disk_is_waited_for_and_nothing_is_lost() {
    let Some(way) = way() else { return };
    let api = Mock::start(&[]);
    for case in &CASES {
        let place = case.place();
        let ran = case.run(way, &place, "10m", &api.users(), true);
        assert_eq!(ran.status, case.status, "{}: {}", case.command, ran.stderr);
        let counts = ran.counts();
        let kept = (case.count)(&place, case.file);
        assert_eq!((counts[0], kept), (RECORDS, RECORDS), "{}", case.command);
        assert!(
            ran.stderr.contains("full") || ran.stderr.contains("No space"),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn a_disk_that_stays_full_ends_a_command_with_what_is_kept() {
    let Some(way) = way() else { return };
    let api = Mock::start(&[]);
    for case in &CASES {
        let place = case.place();
        let ran = case.run(way, &place, "500ms", &api.users(), false);
        assert_eq!(ran.status, 4, "{}: {}", case.command, ran.stderr);
        assert!(ran.stderr.contains("--max-outage"), "{}", ran.stderr);
        let counts = ran.counts();
        let kept = (case.count)(&place, case.file);
        match case.status {
            0 => assert_eq!(counts[1], kept, "{}: {}", case.command, ran.stderr),
            // Rejects are on their way when the disk is full.
            _ => assert!(kept < RECORDS, "{}", case.command),
        }
    }
}
