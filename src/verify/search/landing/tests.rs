//! What is found in files that were loaded.

use super::*;
use crate::ports::ledger::{FileRead, LoadInfo};
use crate::record::value::Value;

fn load(inputs: Vec<String>, newest: i64) -> LoadRecord {
    LoadRecord {
        info: LoadInfo {
            inputs: inputs.into_iter().map(LoadedFile::at).collect(),
            started_at: i64::MAX,
            newest: Some(newest),
            ..LoadInfo::default()
        },
        mode: String::new(),
        loaded_at: 0,
        written: 0,
    }
}

fn id(n: u32) -> String {
    format!("00000000-0000-0000-000a-00000000000{n}")
}

fn key(n: u32) -> Value<'static> {
    Value::Uuid(id(n).parse().unwrap())
}

/// 2026-11-01 and some seconds.
fn at(second: i64) -> (i64, crate::record::row::Digest) {
    (1_793_491_200_000 + second * 1_000, Default::default())
}

#[test]
fn a_file_that_was_loaded_counts_only_if_it_has_the_version_or_a_newer_one() {
    let dataset = Dataset::load(None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let line = |id: &str, second: u32| {
        format!(
            "{{\"id\":\"{id}\",\"email\":\"a\",\"fetched_at\":\"2026-11-01T00:00:0{second}Z\"}}\n"
        )
    };
    // The third key is not in its canonical form.
    let odd = id(3).to_uppercase();
    let text = [line(&id(1), 5), line(&id(2), 5), line(&odd, 5)].concat();
    let json = path("day.ndjson");
    std::fs::write(&json, format!("{text}not a record\n")).unwrap();
    let cells = |n: u32| format!("2026-11-01T00:00:05Z,\"a\nb\",{}\n", id(n));
    let csv = path("day.csv");
    let text = format!("fetched_at,email,id\n{}{}", cells(1), cells(2)) + &cells(3);
    std::fs::write(&csv, text).unwrap();
    let mut wanted = Wanted::default();
    let version_of = |n: u32| at([4, 6, 5, 0][n as usize - 1]);
    for n in 1..=4 {
        wanted.add(&key(n), version_of(n));
    }
    let (_stop, stop) = Stop::channel();
    let found = |load: LoadRecord| in_landing(&dataset, &[load], false, &wanted, &stop);
    for (path, third) in [(&json, 3), (&csv, 6)] {
        let landed = found(load(vec![path.clone()], at(5).0));
        assert!(landed.unread.is_empty());
        let places = [1, 2, 3, 4].map(|n| landed.place(id_of(hash_of(&key(n)), version_of(n))));
        let line = |n: u32| Some(format!("{path}, line {n},"));
        let first = if third == 3 { 1 } else { 2 };
        assert_eq!(places, [line(first), None, line(third), None]);
    }
    for (inputs, why) in [
        (vec![], "did not read files"),
        (vec![format!("{json}.gone")], "cannot read"),
    ] {
        let landed = found(load(inputs.clone(), at(5).0));
        let unread = |second| {
            let version = at(second);
            landed.unread(id_of(hash_of(&key(4)), version), version.0, None)
        };
        assert!(unread(5).unwrap().contains(why));
        // Of what was looked for, that may be newer than the load.
        assert_eq!(unread(6), None);
        // Nothing that is looked for can have been in an older load.
        assert!(found(load(inputs, at(-1).0)).unread.is_empty());
    }
}

#[test]
fn a_file_that_many_loads_name_is_read_once() {
    let dataset = Dataset::load(None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("day.ndjson").display().to_string();
    std::fs::write(&path, "{}\n{}\n").unwrap();
    let of = |xxh3: &str| {
        let mut load = load(vec![path.clone()], at(9).0);
        load.info.inputs[0].read = Some(FileRead {
            contents: Contents {
                bytes: 6,
                xxh3: xxh3.into(),
            },
            ..FileRead::default()
        });
        load
    };
    let same = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(b"{}\n{}\n"));
    let mut loads = vec![of(&same); 200];
    loads[7] = of("0");
    let mut wanted = Wanted::default();
    wanted.add(&key(1), at(0));
    let groups = groups(&loads, at(0).0, &mut Landed::default());
    let members: Vec<usize> = groups.iter().map(|group| group.loads.len()).collect();
    assert_eq!(members, [200]);
    // What is in it is no record, nor was it when it was loaded; one load has read something else.
    let (_stop, stop) = Stop::channel();
    let landed = in_landing(&dataset, &loads, false, &wanted, &stop);
    let is_other = |unread: &Unread| unread.why.contains("it is not the file");
    let other: Vec<usize> = landed
        .unread
        .iter()
        .filter(|unread| is_other(unread))
        .map(|unread| unread.load)
        .collect();
    assert_eq!((landed.unread.len(), other), (1, vec![7]));
}

#[test]
fn what_several_loads_had_is_of_the_newest_one_and_a_reject_knows_its_own_load_only() {
    let dataset = Dataset::load(None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let line = |n: u32, email: &str| {
        let id = id(n);
        format!("{{\"id\":\"{id}\",\"email\":{email},\"fetched_at\":\"2026-11-01T00:00:05Z\"}}\n")
    };
    let text = line(1, "\"a\"") + &line(2, "7");
    let of = |name: &str, is_same: bool| {
        let path = folder.path().join(name);
        std::fs::write(&path, &text).unwrap();
        let mut load = load(vec![path.display().to_string()], at(5).0);
        let hash = xxhash_rust::xxh3::xxh3_128(text.as_bytes());
        load.info.inputs[0].read = Some(FileRead {
            contents: Contents {
                bytes: text.len() as u64,
                xxh3: format!("{:032x}", if is_same { hash } else { 0 }),
            },
            format: "ndjson".into(),
            ..FileRead::default()
        });
        load
    };
    // The newest load has read something else in the place of the first file.
    let loads = [of("a", false), of("b", true), of("a", true)];
    let mut wanted = Wanted::default();
    wanted.add(&key(1), at(5));
    let (_stop, stop) = Stop::channel();
    let first = id_of(hash_of(&key(1)), at(5));
    let landed = in_landing(&dataset, &loads, false, &wanted, &stop);
    assert_eq!(landed.load(first), Some(1));
    assert!(landed.place(first).unwrap().contains("b, line 1,"));

    // A record of another version does not stand for this one, nor an older one.
    for (second, expected) in [(4, true), (5, true), (6, false)] {
        wanted.add(&key(2), at(second));
        let landed = in_landing(&dataset, &loads[1..], false, &wanted, &stop);
        let (id, time) = (id_of(hash_of(&key(2)), at(second)), at(second).0);
        assert_eq!(landed.unread(id, time, None).is_some(), expected);
        let elsewhere = |load| landed.may_be_elsewhere(id, time, (load, None), None);
        assert_eq!(elsewhere(1), expected);
        assert_eq!(landed.unread(id, time, Some(0)), None);
        assert!(!elsewhere(0));
    }

    // By the rules of the older load, it was valid.
    let mut loads = loads;
    loads[2] = of("b", true);
    for rejected in [None, Some(1), Some(0)] {
        let read = loads[2].info.inputs[0].read.as_mut().unwrap();
        read.rejected = rejected;
        let landed = in_landing(&dataset, &loads[1..], false, &wanted, &stop);
        let had = [4, 5, 6].map(|second| landed.load(id_of(hash_of(&key(2)), at(second))));
        let old = Some(1).filter(|_| rejected == Some(0));
        assert_eq!(had, [old, old, None], "{rejected:?}");
    }
}

#[test]
fn the_same_bytes_of_which_as_many_were_rejected_are_one_input() {
    let of = |bytes: u64, rejected: Option<u64>| {
        let mut load = load(vec!["/gone.ndjson".into()], at(5).0);
        load.info.inputs[0].read = Some(FileRead {
            contents: Contents {
                bytes,
                xxh3: String::new(),
            },
            rejected,
            ..FileRead::default()
        });
        load
    };
    let dataset = Dataset::load(None).unwrap();
    let mut wanted = Wanted::default();
    wanted.add(&key(1), at(5));
    let (_stop, stop) = Stop::channel();
    for (own, other, is_other) in [
        (of(7, Some(1)), of(7, Some(1)), false),
        (of(7, Some(1)), of(7, Some(2)), true),
        (of(7, Some(1)), of(8, Some(1)), true),
        (of(7, None), of(7, None), true),
    ] {
        let loads = [own, other];
        let landed = in_landing(&dataset, &loads, false, &wanted, &stop);
        let read = loads[0].info.inputs[0].read.as_ref();
        let id = id_of(hash_of(&key(1)), at(5));
        assert_eq!(
            landed.may_be_elsewhere(id, at(5).0, (0, None), read),
            is_other
        );
    }
}
