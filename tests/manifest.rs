//! `manifest.json` agrees with its schema, with SKILL.md, with Cargo.toml and with the files it names.

use std::collections::BTreeSet;

use serde_json::{Value, json};

fn read(path: &str) -> String {
    std::fs::read_to_string(crate::fixture::root().join(path))
        .unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn manifest() -> Value {
    serde_json::from_str(&read("manifest.json")).unwrap()
}

fn validator() -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(&read("manifest.schema.json")).unwrap();
    jsonschema::draft202012::meta::validate(&schema).unwrap();
    jsonschema::draft202012::new(&schema).unwrap()
}

#[test]
fn it_fits_its_schema() {
    let problems: Vec<String> = validator()
        .iter_errors(&manifest())
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn the_schema_refuses_what_a_store_would() {
    let validator = validator();
    type Change = fn(&mut Value);
    let broken: [(&str, Change); 14] = [
        ("no slug", |m| {
            drop(m.as_object_mut().unwrap().shift_remove("slug"))
        }),
        ("a slug with a slash", |m| m["slug"] = json!("a/b")),
        ("a slug with two hyphens", |m| m["slug"] = json!("a--b")),
        ("a version of two numbers", |m| m["version"] = json!("1.0")),
        ("an unknown field", |m| m["tags"] = json!([])),
        ("a short description", |m| m["description"] = json!("short")),
        ("markup in the description", |m| {
            m["description"] = json!(format!("{}<b>", m["description"].as_str().unwrap()));
        }),
        ("an unknown tool", |m| {
            m["supported_tools"] = json!(["Emacs"])
        }),
        ("no tool", |m| m["supported_tools"] = json!([])),
        ("an unknown risk", |m| m["risk"]["level"] = json!("none")),
        ("a risk without factors", |m| {
            m["risk"]["factors"] = json!([])
        }),
        ("a prompt outside prompts/", |m| {
            m["prompt_templates"][0]["file"] = json!("prompts/../x.md")
        }),
        ("an empty line", |m| m["use_cases"][0] = json!("")),
        ("a repository that is no address", |m| {
            m["repository"] = json!("here")
        }),
    ];
    for (what, change) in broken {
        let mut manifest = manifest();
        change(&mut manifest);
        assert!(!validator.is_valid(&manifest), "{what} passes");
    }
    let mut without = manifest();
    without.as_object_mut().unwrap().shift_remove("repository");
    assert!(validator.is_valid(&without), "the repository may be absent");
}

#[test]
fn it_agrees_with_the_frontmatter_of_skill_md() {
    let text = read("SKILL.md");
    let (skill, _) = xtask::skill::frontmatter(&text).unwrap();
    let manifest = manifest();
    for field in ["name", "description", "license"] {
        assert_eq!(manifest[field].as_str(), skill[field].as_str(), "{field}");
    }
    assert_eq!(manifest["slug"], manifest["name"]);
    let version = skill
        .get("metadata")
        .and_then(|metadata| metadata.get("version"));
    if let Some(version) = version {
        assert_eq!(
            manifest["version"].as_str(),
            version.as_str(),
            "metadata.version"
        );
    }
}

#[test]
fn it_agrees_with_cargo_toml() {
    let manifest = manifest();
    assert_eq!(manifest["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(manifest["author"], env!("CARGO_PKG_AUTHORS"));
    assert_eq!(manifest["license"], env!("CARGO_PKG_LICENSE"));
    assert_eq!(manifest["slug"], env!("CARGO_PKG_NAME"));
}

#[test]
fn it_agrees_with_the_plugin() {
    let manifest = manifest();
    let plugin: Value = serde_json::from_str(&read(".claude-plugin/plugin.json")).unwrap();
    for field in ["name", "version", "license"] {
        assert_eq!(plugin[field], manifest[field], "{field}");
    }
    assert_eq!(plugin["author"]["name"], manifest["author"]);
}

#[test]
fn it_lists_the_prompts_that_there_are() {
    let manifest = manifest();
    let templates = manifest["prompt_templates"].as_array().unwrap();
    let listed: BTreeSet<String> = templates
        .iter()
        .map(|t| t["file"].as_str().unwrap().to_owned())
        .collect();
    let titles: BTreeSet<&str> = templates
        .iter()
        .map(|t| t["title"].as_str().unwrap())
        .collect();
    assert_eq!(
        (listed.len(), titles.len()),
        (templates.len(), templates.len()),
        "one stands twice"
    );
    let present: BTreeSet<String> = std::fs::read_dir(crate::fixture::root().join("prompts"))
        .unwrap()
        .map(|entry| format!("prompts/{}", entry.unwrap().file_name().to_str().unwrap()))
        .collect();
    assert_eq!(listed, present);
}
