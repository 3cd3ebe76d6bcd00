//! What every reader of a store's table must do if it is read in pages.

use crate::dataset::Dataset;
use crate::ports::conformance::table_reader::Harness;
use crate::ports::conformance::{
    Checked, HARD_KEYS, Verdict, dataset, equal, event, fine, hard_events, holds, keyed_events,
    rows,
};
use crate::ports::page_reader::{Filter, Misfits, PageQuery};
use crate::ports::table_reader::TableReader;
use crate::record::row::compare_keys;
use crate::record::value::Value;

/// A page of everything.
fn all(dataset: &Dataset) -> PageQuery<'_> {
    PageQuery {
        dataset,
        after: None,
        filters: &[],
        misfits_with: &[],
        newer_than: None,
        most: 1_000,
    }
}

async fn written(
    harness: &dyn Harness,
    dataset: &Dataset,
    events: &[String],
) -> Checked<Box<dyn TableReader>> {
    fine("creating tables", harness.create(dataset).await)?;
    let rows = rows(dataset, events)?;
    fine("writing", harness.write(dataset, &rows).await)?;
    fine("opening the table", harness.table(dataset).await)
}

pub(super) async fn pages_have_every_key_once_in_order(harness: &dyn Harness) -> Verdict {
    for (key, values) in HARD_KEYS {
        let dataset = dataset(key)?;
        let events = keyed_events(key, &values, 1);
        let mut table = written(harness, &dataset, &events).await?;
        let expected = rows(&dataset, &events)?;
        let mut expected: Vec<Value<'static>> = (0..expected.len())
            .map(|i| expected.value(i, dataset.event.key).owned())
            .collect();
        expected.sort_by(compare_keys);
        let whole = fine("reading", table.page(&all(&dataset)).await)?.keys;
        equal(
            format_args!("keys {key} of one page"),
            whole,
            expected.clone(),
        )?;
        let mut keys: Vec<Value<'static>> = Vec::new();
        for _ in 0..=expected.len() {
            let last = keys.last().cloned();
            let query = PageQuery {
                after: last.as_ref(),
                most: 3,
                ..all(&dataset)
            };
            let page = fine("reading", table.page(&query).await)?.keys;
            holds(
                "a page has at most as many keys as asked for",
                page.len() <= 3,
            )?;
            keys.extend(page);
        }
        equal(format_args!("keys {key} of several pages"), keys, expected)?;
    }
    Ok(())
}

pub(super) async fn pages_have_only_rows_with_these_values(harness: &dyn Harness) -> Verdict {
    let dataset = dataset("id")?;
    let events = hard_events();
    let mut table = written(harness, &dataset, &events).await?;
    let rows = rows(&dataset, &events)?;
    // Each value of each row is a condition.
    for i in 0..rows.len() {
        for (field, value) in rows.values(i).enumerate() {
            if value == Value::Null {
                continue;
            }
            let filter = Filter {
                field,
                value: value.owned(),
            };
            let mut expected: Vec<Value<'static>> = (0..rows.len())
                .filter(|row| rows.value(*row, field) == value)
                .map(|row| rows.value(row, dataset.event.key).owned())
                .collect();
            expected.sort_by(compare_keys);
            let query = PageQuery {
                filters: &[filter],
                ..all(&dataset)
            };
            let keys = fine("reading", table.page(&query).await)?.keys;
            let name = &dataset.fields[field].name;
            equal(format_args!("keys with {name} = {value}"), keys, expected)?;
        }
    }
    Ok(())
}

pub(super) async fn pages_have_only_newer_rows(harness: &dyn Harness) -> Verdict {
    let dataset = dataset("id")?;
    let events: Vec<String> = (0..20_u8).map(|n| event(n.into(), n, "a")).collect();
    let mut table = written(harness, &dataset, &events).await?;
    let rows = rows(&dataset, &events)?;
    let filters = [Filter {
        field: 1,
        value: Value::Text("a".into()),
    }];
    for (boundary, first) in [
        (rows.meta(0).event_time - 1, 0),
        (rows.meta(11).event_time, 12),
    ] {
        let query = PageQuery {
            newer_than: Some(boundary),
            filters: &filters,
            ..all(&dataset)
        };
        let keys = fine("reading", table.page(&query).await)?.keys;
        let expected: Vec<Value<'static>> = (first..20).map(Value::Int).collect();
        equal(format_args!("keys newer than {boundary}"), keys, expected)?;
    }
    Ok(())
}

pub(super) async fn a_key_that_does_not_fit_is_told_and_ends_no_page(
    harness: &dyn Harness,
) -> Verdict {
    let dataset = dataset("id")?;
    let events: Vec<String> = (0..9_u8).map(|n| event(n.into(), n, "a")).collect();
    written(harness, &dataset, &events).await?;
    let planted = harness.plant_text(&dataset, "id", "twelve").await;
    fine("planting a text", planted)?;
    let mut table = fine("opening the table", harness.table(&dataset).await)?;
    let filters = [Filter {
        field: 1,
        value: Value::Text("a".into()),
    }];
    let others = [Filter {
        field: 1,
        value: Value::Text("b".into()),
    }];
    for (filters, misfits_with, misfits) in [
        (&[][..], &[][..], 1),
        (&filters, &[], 1),
        (&[], &filters, 1),
        (&[], &others, 0),
    ] {
        let (mut keys, mut told): (Vec<Value<'static>>, _) = (Vec::new(), Misfits::default());
        loop {
            let last = keys.last().cloned();
            let query = PageQuery {
                after: last.as_ref(),
                most: 3,
                filters,
                misfits_with,
                ..all(&dataset)
            };
            let page = fine("reading", table.page(&query).await)?;
            let is_last = page.keys.len() < 3;
            keys.extend(page.keys);
            told.extend(page.misfits);
            for (_, met) in page.among {
                told.extend(met);
            }
            if is_last {
                break;
            }
        }
        equal("the number of misfits over all pages", told.count, misfits)?;
        let expected: Vec<Value<'static>> = [0, 2, 3, 4, 5, 6, 7, 8].map(Value::Int).into();
        equal("the keys that fit", keys, expected)?;
        holds(
            "a sample shows what is there",
            told.samples.iter().all(|found| found.contains("twelve")),
        )?;
    }
    Ok(())
}
