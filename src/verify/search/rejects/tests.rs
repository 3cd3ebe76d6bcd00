use super::*;
use crate::intake::reject_lines::{Writer, push_line};
use crate::intake::rejects as writer;
use crate::ports::ledger::{Contents, FileRead, LoadInfo, LoadedFile};
use crate::record::reject::{Fault, Reject, Rule};

const DAY: i64 = 1_793_491_200_000; // 2026-11-01

fn key(n: usize) -> Value<'static> {
    Value::Uuid(uuid::Uuid::from_u128(n as u128))
}

/// A reject file with these records, as `load-batch` writes it, and the load. Each record is one of the input with this
/// index, or of standard input if there is none.
fn load_of(
    folder: &Path,
    name: &str,
    records: &[(usize, &[u8])],
    inputs: &[LoadedFile],
) -> LoadRecord {
    let dataset = Dataset::load(None).unwrap();
    let reject = Reject {
        field: None,
        fault: Fault::new(Rule::Type, "expected text, got a number"),
    };
    let mut lines = Vec::new();
    let now = crate::time::now_ms();
    let by = Writer {
        run_id: "run",
        started_at: now,
    };
    for (n, (input, record)) in records.iter().enumerate() {
        let rejected = writer::Rejected {
            source: "batch_users",
            partition: None,
            offset: 0,
            line: Some(n as u64 + 1),
            key: None,
            value: Some(record),
            headers: &[],
            reject: &reject,
        };
        let input = inputs.get(*input).map_or("-", |input| &*input.path);
        push_line(&mut lines, &dataset, by, input, &rejected);
    }
    let path = folder.join(name);
    std::fs::write(&path, lines).unwrap();
    LoadRecord {
        info: LoadInfo {
            run_id: by.run_id.into(),
            inputs: inputs.to_vec(),
            rejects: Some(path.display().to_string()),
            started_at: now,
            ..LoadInfo::default()
        },
        mode: String::new(),
        loaded_at: now,
        written: 0,
    }
}

fn load(folder: &Path, name: &str, records: &[String], inputs: &[LoadedFile]) -> LoadRecord {
    let records: Vec<(usize, &[u8])> = records.iter().map(|r| (0, r.as_bytes())).collect();
    load_of(folder, name, &records, inputs)
}

/// A CSV file with this header that was loaded.
fn csv(folder: &Path, name: &str, header: &str) -> LoadedFile {
    let path = folder.join(name);
    std::fs::write(&path, header).unwrap();
    LoadedFile {
        path: path.display().to_string(),
        read: Some(FileRead {
            contents: Contents {
                bytes: header.len() as u64,
                xxh3: format!("{:032x}", xxhash_rust::xxh3::xxh3_128(header.as_bytes())),
            },
            format: "csv".into(),
            ..FileRead::default()
        }),
    }
}

fn json(n: usize, second: usize) -> String {
    format!(
        "{{\"id\":\"{}\",\"email\":7,\"fetched_at\":\"2026-11-01T00:00:0{second}Z\"}}",
        key(n)
    )
}

#[test]
fn a_reject_is_that_of_its_version_however_many_there_are() {
    let dataset = Dataset::load(None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (_stop, stop) = Stop::channel();
    // Of the first key, an older version was rejected later.
    let older: Vec<String> = (0..3).map(|n| json(n, 1)).collect();
    let newer: Vec<String> = (0..50).map(|n| json(n, 2)).collect();
    let loads = [
        load(folder.path(), "b", &older, &[]),
        load(folder.path(), "a", &newer, &[]),
    ];
    let why = |rejects: &Rejects, n: usize, second: i64| {
        let rejected = rejects.of(&key(n), DAY + second * 1_000);
        rejected.map(|rejected| (rejected.why, rejected.load))
    };
    let expected = |file: &str, line: usize, load: usize| {
        let path = folder.path().join(file).display().to_string();
        let why = "type: expected text, got a number";
        Some((format!("{path}: line {line} of the input, {why}"), load))
    };
    let all = find(&dataset, &loads, None, &stop, 53);
    assert!(!all.is_cut);
    let mut wanted = Wanted::default();
    wanted.add(&key(0), (DAY + 2_000, Default::default()));
    wanted.add(&key(49), (DAY + 2_000, Default::default()));
    wanted.add(&key(50), (DAY + 2_000, Default::default()));
    let few = in_rejects(&dataset, &loads, Some(&[&wanted]), &stop);
    assert_eq!(few.found.len(), 2, "only what is looked for is kept");
    for rejects in [&all, &few] {
        assert_eq!(why(rejects, 0, 2), expected("a", 1, 1));
        assert_eq!(why(rejects, 49, 2), expected("a", 50, 1));
        assert_eq!(why(rejects, 50, 2), None);
        assert_eq!(why(rejects, 49, 1), None);
    }
    assert_eq!(why(&all, 0, 1), expected("b", 1, 0));
    let mut earlier = load(folder.path(), "c", &newer, &[]);
    earlier.loaded_at -= 3_600_000;
    let same = in_rejects(&dataset, &[earlier.clone()], None, &stop);
    assert_eq!(why(&same, 0, 2), expected("c", 1, 0));
    // A run of the same id, as those of a day have it.
    earlier.info.started_at -= 1;
    let other = in_rejects(&dataset, &[earlier], None, &stop);
    assert_eq!(
        why(&other, 0, 2),
        None,
        "it is not the file that the load wrote"
    );
    // A run that replaces the file while it is read.
    let path = folder.path().join("c");
    let lines = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, lines.replace("\"run\"", "\"new\"")).unwrap();
    let told = why(&same, 0, 2).unwrap().0;
    assert!(
        told.ends_with("another run has since replaced what was at byte 0"),
        "{told}"
    );
    let cut = find(&dataset, &loads, None, &stop, 52);
    assert_eq!((cut.is_cut, cut.found.len()), (true, 52));
}

#[test]
fn a_rejected_csv_record_has_its_key_where_the_header_of_the_input_says() {
    let dataset = Dataset::load(None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (_stop, stop) = Stop::channel();
    let input = csv(folder.path(), "day.csv", "email,fetched_at,id,dob\n");
    let records = [
        format!("a,2026-11-01T00:00:02Z,{},soon", key(1)),
        format!("{},2026-11-01T00:00:02Z,none,soon", key(2)),
    ];
    let loads = [load(folder.path(), "r", &records, &[input])];
    let rejects = in_rejects(&dataset, &loads, None, &stop);
    let is_sure = |n: usize, ms: i64| rejects.of(&key(n), ms).map(|rejected| rejected.is_sure);
    assert_eq!(is_sure(1, DAY + 2_000), Some(true));
    // The second record has no key, so that it may be any.
    assert_eq!(is_sure(1, DAY), Some(false));
    assert_eq!(is_sure(2, DAY + 2_000), Some(false));
}

/// Whether the record of a key was rejected: for sure, perhaps, or not.
fn sureness(loads: &[LoadRecord], n: usize) -> Option<(bool, bool)> {
    let dataset = Dataset::load(None).unwrap();
    let (_stop, stop) = Stop::channel();
    let rejects = in_rejects(&dataset, loads, None, &stop);
    let rejected = rejects.of(&key(n), DAY + 2_000)?;
    Some((rejected.is_of_key, rejected.is_sure))
}

#[test]
fn a_record_in_another_encoding_is_told_by_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let input = csv(folder, "a.csv", "first_name,fetched_at,id\n");
    let cells = format!(",2026-11-01T00:00:02Z,{}", key(1));
    let record = [b"Jos\xe9", cells.as_bytes()].concat();
    let of_csv = load_of(folder, "r", &[(0, &record)], &[input]);
    let event = json(2, 2).replacen('7', "\"Jos?\"", 1).into_bytes();
    let event: Vec<u8> = event
        .into_iter()
        .map(|byte| if byte == b'?' { 0xe9 } else { byte })
        .collect();
    let of_json = load_of(folder, "s", &[(0, &event)], &[]);
    for (load, n) in [(of_csv, 1), (of_json, 2)] {
        let path = load.info.rejects.as_ref().unwrap();
        let line = std::fs::read_to_string(path).unwrap();
        assert!(line.contains("raw_base64"), "{line}");
        assert_eq!(sureness(std::slice::from_ref(&load), n), Some((true, true)));
        assert_eq!(sureness(&[load], 3), None);
    }
}

#[test]
fn each_csv_record_is_read_by_the_header_of_its_own_input() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let inputs = [
        csv(folder, "a.csv", "id,email,fetched_at\n"),
        csv(folder, "b.csv", "email,id,fetched_at\n"),
        csv(folder, "c.csv", "email,id,fetched_at\n"),
    ];
    // Its second cell is its key, and its first one that of another record.
    let record = format!("{},{},2026-11-01T00:00:02Z", key(1), key(2));
    let records = [(1, record.as_bytes())];
    let is_rejected = |load: LoadRecord| [1, 2].map(|n| sureness(std::slice::from_ref(&load), n));
    let sure = [None, Some((true, true))];
    let perhaps = [Some((false, false)); 2];
    assert_eq!(is_rejected(load_of(folder, "r", &records, &inputs)), sure);
    let old = |inputs: &[LoadedFile]| {
        let load = load_of(folder, "old", &records, inputs);
        let path = load.info.rejects.as_ref().unwrap();
        let lines = std::fs::read_to_string(path).unwrap();
        std::fs::write(path, lines.replace("\"input\":", "\"other\":")).unwrap();
        is_rejected(load)
    };
    assert_eq!(old(&inputs), perhaps, "an older rtp did not keep the input");
    let same = [inputs[1].clone(), inputs[2].clone()];
    assert_eq!(
        old(&[&same[..], &[LoadedFile::at("x.ndjson")]].concat()),
        sure
    );
    assert_eq!(old(&[&same[..], &[LoadedFile::at("-")]].concat()), perhaps);
    // Another file now has its name, also one of the same length.
    for header in ["id,email,fetched_at,dob\n", "id,email,fetched_at\n"] {
        let load = load_of(folder, "r", &records, &inputs);
        std::fs::write(folder.join("b.csv"), header).unwrap();
        assert_eq!(is_rejected(load), perhaps, "it is not what was loaded");
    }
}

#[test]
fn a_long_line_is_read_whole_and_hides_no_other() {
    let folder = tempfile::tempdir().unwrap();
    // A quote takes two bytes in the line, and a control character six.
    for long in ["\\\"".repeat(400_000), "\u{1}".repeat(1 << 19)] {
        let long = json(1, 2).replacen('7', &format!("\"{long}\""), 1);
        let is_json = serde_json::from_str::<serde_json::Value>(&long).is_ok();
        let load = load(folder.path(), "r", &[long, json(2, 2)], &[]);
        let path = load.info.rejects.as_ref().unwrap();
        assert!(std::fs::metadata(path).unwrap().len() > 1 << 20);
        let loads = [load];
        // JSON allows no control characters.
        let expected = Some((is_json, is_json));
        assert_eq!(sureness(&loads, 1), expected);
        assert_eq!(sureness(&loads, 2), Some((true, true)));
        assert_eq!(sureness(&loads, 3), (!is_json).then_some((false, false)));
    }
}

#[test]
fn a_record_without_a_key_may_be_any_that_was_there_to_be_loaded() {
    let dataset = Dataset::load(None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (_stop, stop) = Stop::channel();
    let cut = json(1, 2)[..20].to_string();
    let mut loads = vec![load(folder.path(), "r", &[cut], &[])];
    let why = |loads: &[LoadRecord], ms: i64| {
        let rejected = in_rejects(&dataset, loads, None, &stop).of(&key(3), ms)?;
        assert!(!rejected.is_of_key && !rejected.is_sure);
        Some(rejected.why)
    };
    let told = why(&loads, DAY).unwrap();
    assert!(told.contains("line 1 of the input, type"), "{told}");
    assert!(told.ends_with(", whose key cannot be read"), "{told}");
    let newest = newest_before(&loads[0]);
    assert!(why(&loads, newest).is_some());
    assert_eq!(why(&loads, newest + 1), None);
    // A line that is not one of a reject file, in front of one that is.
    let path = folder.path().join("r");
    let mut lines = b"{\n".to_vec();
    loads[0] = load(folder.path(), "r", &[json(1, 2)], &[]);
    lines.extend(std::fs::read(&path).unwrap());
    std::fs::write(&path, lines).unwrap();
    let told = why(&loads, DAY).unwrap();
    assert!(
        told.contains(" line 1, which is not as load-batch"),
        "{told}"
    );
    assert_eq!(sureness(&loads, 1), Some((true, true)));
}
