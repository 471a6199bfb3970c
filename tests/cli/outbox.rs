use result_poster::CallId;
use serde_json::Value;

use crate::support::{Fixture, Ran};

#[test]
fn a_list_has_a_head_a_line_for_each_call_and_a_footer() {
    let fixture = Fixture::new();
    fixture.outbox(&["sess-1", "sess-2"]);
    let listed = fixture.on_outbox(&["list"]).succeeded();
    let lines: Vec<_> = listed.lines().collect();
    let ids = fixture.ids();
    assert_eq!((lines.len(), ids.len()), (6, 4));
    assert!(
        lines[0].starts_with("ID ") && lines[0].ends_with("REASON OR LAST ERROR"),
        "{listed}"
    );
    assert!(
        lines[1].starts_with(&format!("{}  parked  completion  sess-1  1         ", ids[0])),
        "{listed}"
    );
    assert!(
        lines[1].contains("s ago  ") && lines[1].ends_with("Connection refused (os error 111)"),
        "{listed}"
    );
    assert_eq!(lines[5], "4 calls: 4 parked");
}

#[test]
fn a_filter_selects_by_state_target_and_age() {
    let fixture = Fixture::new();
    fixture.outbox(&["sess-1", "sess-2"]);
    for (filter, expected) in [
        (&["--target", "sess-2"][..], "2 calls: 2 parked"),
        (&["--state", "parked", "--limit", "3"], "3 calls: 3 parked"),
        (&["--state", "dead-letter"], "no calls"),
        (&["--older-than", "1h"], "no calls"),
        (&["--older-than", "0s"], "4 calls: 4 parked"),
    ] {
        let listed = fixture.on_outbox(&[&["list"], filter].concat()).succeeded();
        assert_eq!(listed.lines().last(), Some(expected), "{filter:?}");
    }
}

#[test]
fn a_call_is_shown_with_its_body() {
    let fixture = Fixture::new();
    fixture.outbox(&["sess-1"]);
    let id = fixture.ids().remove(0);
    let shown = fixture.on_outbox(&["show", &id]).succeeded();
    assert!(
        shown.starts_with(&format!("id: {id}\nstate: parked\nkind: completion\ntarget: sess-1\n")),
        "{shown}"
    );
    assert!(shown.contains("\n    \"summary\": \"Done.\""), "{shown}");
    let shown = fixture.on_outbox(&["show", "--json", &id]).succeeded();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["body"]["summary"], "Done.");
}

#[test]
fn a_call_that_does_not_exist_is_status_1() {
    let fixture = Fixture::new();
    fixture.outbox(&["sess-1"]);
    let id = "01a21ca4-abdc-7b75-9de1-32916d6d30e7";
    assert!(id.parse::<CallId>().is_ok());
    assert_eq!(
        fixture.on_outbox(&["show", id]).failed(1),
        format!("call {id}: there is no such call")
    );
    for change in ["requeue", "discard"] {
        let ran = fixture.on_outbox(&[change, id]);
        assert_eq!(
            ran.failed(1),
            format!("call {id}: no parked call or dead letter has this id")
        );
    }
}

#[test]
fn calls_are_changed_by_their_ids() {
    let fixture = Fixture::new();
    fixture.outbox(&["sess-1"]);
    let ids = fixture.ids();
    let requeued = fixture.on_outbox(&["requeue", &ids[0]]).succeeded();
    assert_eq!(requeued, format!("requeued {}\n", ids[0]));
    let discarded = fixture.on_outbox(&["discard", &ids[0], &ids[1]]).succeeded();
    assert_eq!(discarded, format!("discarded {}\ndiscarded {}\n", ids[0], ids[1]));
    assert_eq!(fixture.on_outbox(&["list"]).succeeded(), "no calls\n");
}

#[test]
fn many_calls_are_changed_only_with_yes() {
    let fixture = Fixture::new();
    fixture.outbox(&["sess-1", "sess-2"]);
    let ran = fixture.on_outbox(&["discard", "--target", "sess-1"]);
    assert_eq!(
        ran.failed(2),
        "2 calls selected; to discard those that are not live, add --yes"
    );
    assert_eq!(fixture.ids().len(), 4);
    let ran = fixture.on_outbox(&["discard", "--yes"]);
    assert!(ran.failed(2).starts_with("no calls are named"), "{}", ran.errors);
    let requeued = fixture.on_outbox(&["requeue", "--all", "--yes"]).succeeded();
    assert_eq!(requeued, "requeued 4 calls\n");
    let discarded = fixture
        .on_outbox(&["discard", "--target", "sess-1", "--yes", "--json"])
        .succeeded();
    assert_eq!(discarded, "{\"discarded\":2}\n");
    assert_eq!(fixture.ids().len(), 2);
}

#[test]
fn exported_calls_are_imported_once() {
    let fixture = Fixture::new();
    fixture.outbox(&["sess-1", "sess-2"]);
    let exported = fixture.on_outbox(&["export", "--target", "sess-2"]).succeeded();
    assert_eq!(exported.lines().count(), 2);
    let other = Fixture::new();
    other.outbox(&["sess-3"]);
    let file = other.file("calls.jsonl", &exported);
    for expected in [
        "imported 2 calls, skipped 0 that the outbox has\n",
        "imported 0 calls, skipped 2 that the outbox has\n",
    ] {
        let imported = other.on_outbox(&["import", file.to_str().unwrap()]).succeeded();
        assert_eq!(imported, expected);
    }
    let listed = other.on_outbox(&["list", "--target", "sess-2"]).succeeded();
    assert!(listed.contains("  due   ") || listed.contains("  due  "), "{listed}");
    assert_eq!(other.on_outbox(&["export", "--target", "sess-2"]).succeeded(), exported);
}

#[test]
fn a_damaged_line_of_an_import_is_named() {
    let fixture = Fixture::new();
    fixture.outbox(&["sess-1"]);
    let exported = fixture.on_outbox(&["export"]).succeeded();
    let damaged = format!("{exported}\n{{\"id\":1}}\n");
    let mut command = fixture.command();
    command
        .args(["outbox", "import", "-", "--outbox"])
        .arg(fixture.path("outbox.db"));
    let ran = Ran::with_input(&mut command, &damaged);
    assert!(ran.failed(1).starts_with("-: line 4: "), "{}", ran.errors);
}

#[test]
fn numbers_are_text_or_json() {
    let fixture = Fixture::new();
    fixture.outbox(&["sess-1"]);
    let stats = fixture.on_outbox(&["stats"]).succeeded();
    assert!(
        stats.starts_with("live: 0\nparked: 2\ndead letters: 0\noldest live or parked call: "),
        "{stats}"
    );
    let stats: Value = serde_json::from_str(&fixture.on_outbox(&["stats", "--json"]).succeeded()).unwrap();
    assert_eq!(stats["parked"], 2);
}

#[test]
fn a_file_that_is_no_outbox_is_not_changed() {
    let fixture = Fixture::new();
    for content in ["text", ""] {
        let path = fixture.file("outbox.db", content);
        let ran = fixture.on_outbox(&["list"]);
        assert!(
            ran.failed(1)
                .ends_with("outbox.db: the file or schema is not an outbox"),
            "{}",
            ran.errors
        );
        assert_eq!(std::fs::read_to_string(path).unwrap(), content);
    }
}
