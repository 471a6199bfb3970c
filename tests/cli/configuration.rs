use crate::support::{Fixture, Ran, command};

#[test]
fn a_file_of_options_is_toml_or_json() {
    let fixture = Fixture::new();
    let (url, path) = (fixture.platform.url(), fixture.path("outbox.db"));
    let toml = format!("platform_url = {url:?}\nworker_id = \"w\"\ntimeout = \"5s\"\n[outbox]\npath = {path:?}\n");
    let json = format!(r#"{{"platform_url":{url:?},"worker_id":"w","timeout":"5s","outbox":{{"path":{path:?}}}}}"#);
    for file in [fixture.file("a.toml", &toml), fixture.file("a.json", &json)] {
        let checked = Ran::of(command().args(["check", "--config"]).arg(file)).succeeded();
        assert!(checked.contains("ok      credentials   worker \"w\""), "{checked}");
        assert!(checked.contains("outbox.db does not exist yet"), "{checked}");
    }
}

#[test]
fn an_error_names_the_file_and_the_key_and_quotes_no_secret() {
    let fixture = Fixture::new();
    for (name, content, expected) in [
        (
            "a.toml",
            "platform_url = \"x\"\ntimeout = \"soon\"\n",
            "a.toml: `timeout`: \"soon\" is not a duration",
        ),
        ("b.toml", "auth_token = 4711\n", "b.toml: `auth_token`: is not text"),
        ("c.toml", "auth_token = \"s3cret\nx", "c.toml: line "),
        ("d.toml", "tiemout = \"1s\"\n", "line 1: unknown field `tiemout`"),
        (
            "e.toml",
            "[outbox]\npth = \"x\"\n",
            "e.toml: `outbox`: unknown field `pth`",
        ),
        ("f.json", "{\"timeout\":1}", "`timeout`: invalid type: integer `1`"),
        ("g.toml", "", "`platform_url`: is missing"),
    ] {
        let file = fixture.file(name, content);
        let ran = Ran::of(
            command()
                .args(["post", "--session", "s", "--config"])
                .args([&file, &fixture.file("r", r#"{"status":"completed"}"#)]),
        );
        let error = ran.failed(2);
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("s3cret") && !error.contains("4711"), "{error}");
    }
}

#[test]
fn an_unknown_variable_is_refused() {
    let ran = Ran::of(command().env("RESULT_POSTER_TIEMOUT", "1s").arg("check"));
    assert_eq!(ran.failed(2), "`RESULT_POSTER_TIEMOUT`: is unknown");
}
