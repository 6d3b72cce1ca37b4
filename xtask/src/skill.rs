//! SKILL.md as the Agent Skills specification has it, and within its budget.

use std::fs;
use std::path::Path;

use serde_yaml_ng::Value;

pub const SKILL_TOKENS: usize = 2_500;
pub const SKILL_LINES: usize = 200;

const FIELDS: [&str; 5] = [
    "name",
    "description",
    "license",
    "compatibility",
    "metadata",
];

/// Frontmatter and body of a Markdown file.
pub fn frontmatter(text: &str) -> Result<(Value, &str), String> {
    let rest = text.strip_prefix("---\n").ok_or("no frontmatter")?;
    let (yaml, body) = rest
        .split_once("\n---\n")
        .ok_or("the frontmatter is never closed")?;
    let value = serde_yaml_ng::from_str(yaml).map_err(|e| format!("frontmatter: {e}"))?;
    Ok((value, body))
}

pub fn check(root: &Path) -> Vec<String> {
    let text = match fs::read_to_string(root.join("SKILL.md")) {
        Ok(text) => text,
        Err(e) => return vec![format!("SKILL.md: {e}")],
    };
    let (head, body) = match frontmatter(&text) {
        Ok(parts) => parts,
        Err(e) => return vec![format!("SKILL.md: {e}")],
    };
    let mut problems = Vec::new();
    let Some(fields) = head.as_mapping() else {
        return vec!["SKILL.md: the frontmatter is not a mapping".to_owned()];
    };
    for key in fields.keys() {
        let key = key.as_str().unwrap_or("?");
        if !FIELDS.contains(&key) {
            problems.push(format!("SKILL.md: the specification has no field {key}"));
        }
    }
    let field = |name: &str| head.get(name).and_then(Value::as_str).unwrap_or("");
    let name = field("name");
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name != "streaming-api-patterns" || !name.chars().all(plain) {
        problems.push(format!(
            "SKILL.md: the name is streaming-api-patterns, not {name:?}"
        ));
    }
    let description = field("description").chars().count();
    if !(300..=450).contains(&description) {
        problems.push(format!(
            "SKILL.md: the description has {description} characters, 300 to 450 are wanted"
        ));
    }
    if field("description").contains(['<', '>']) {
        problems.push("SKILL.md: no < or > in the description".to_owned());
    }
    if field("license") != "MIT" {
        problems.push("SKILL.md: the license is MIT".to_owned());
    }
    if field("compatibility").chars().count() > 500 {
        problems.push("SKILL.md: compatibility has more than 500 characters".to_owned());
    }
    let strings = |v: &Value| {
        v.as_mapping()
            .is_some_and(|m| m.iter().all(|(k, v)| k.is_string() && v.is_string()))
    };
    if head.get("metadata").is_some_and(|m| !strings(m)) {
        problems.push("SKILL.md: metadata maps strings to strings".to_owned());
    }
    let used = super::budgets::tokens(&text);
    if used > SKILL_TOKENS {
        problems.push(format!(
            "SKILL.md: {used} tokens, the budget is {SKILL_TOKENS}"
        ));
    }
    let lines = text.lines().count();
    if lines > SKILL_LINES {
        problems.push(format!(
            "SKILL.md: {lines} lines, the budget is {SKILL_LINES}"
        ));
    }
    for path in paths(body) {
        if !root.join(&path).exists() {
            problems.push(format!("SKILL.md names {path}, which is not there"));
        }
    }
    problems.extend(unknown_ids(root, body));
    problems.extend(openai_yaml(root));
    problems.extend(versions(root, body));
    problems
}

/// Paths of the pack that `text` names: link targets, and code spans that look like a path.
pub fn paths(text: &str) -> Vec<String> {
    let span = regex::Regex::new(r"`([^`\s]+)`|\]\(([^)\s]+)\)").unwrap();
    let roots = [
        "book/",
        "snippets/",
        "probe/",
        "prompts/",
        "evals/",
        "checklist/",
        "src/",
        "tests/",
        "agents/",
    ];
    let mut found: Vec<String> = span
        .captures_iter(text)
        .filter_map(|c| {
            let link = c.get(2).is_some();
            let path = c
                .get(1)
                .or(c.get(2))?
                .as_str()
                .split('#')
                .next()?
                .to_owned();
            let looks = roots.iter().any(|r| path.starts_with(r))
                || (link && !path.contains("://") && !path.is_empty());
            (looks && !path.contains(['<', '*', '{', '$'])).then_some(path)
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

/// What Codex reads beside SKILL.md.
fn openai_yaml(root: &Path) -> Vec<String> {
    let path = "agents/openai.yaml";
    let text = fs::read_to_string(root.join(path)).unwrap_or_default();
    let yaml: Value = match serde_yaml_ng::from_str(&text) {
        Ok(yaml) => yaml,
        Err(e) => return vec![format!("{path}: {e}")],
    };
    let field = |name: &str| yaml["interface"][name].as_str().unwrap_or("");
    let mut problems = Vec::new();
    if !(25..=64).contains(&field("short_description").chars().count()) {
        problems.push(format!("{path}: short_description has 25 to 64 characters"));
    }
    if !field("default_prompt").contains("$streaming-api-patterns") {
        problems.push(format!(
            "{path}: default_prompt names $streaming-api-patterns"
        ));
    }
    problems
}

/// Ids of rules that the checklist does not have.
fn unknown_ids(root: &Path, body: &str) -> Vec<String> {
    let items = super::checklist::read_all(root).unwrap_or_default();
    let span = regex::Regex::new(r"`((?:sse|ws|stream|llm|prod)-[a-z0-9-]+)`").unwrap();
    span.captures_iter(body)
        .map(|c| c[1].to_owned())
        // The program is called stream-probe.
        .filter(|id| id != "stream-probe" && !items.iter().any(|item| item.id == *id))
        .map(|id| format!("SKILL.md names {id}, which no checklist has"))
        .collect()
}

/// Every `crate x.y.z` of the line that begins with "Verified against" is the version in Cargo.lock.
fn versions(root: &Path, body: &str) -> Vec<String> {
    let Some(line) = body.lines().find(|l| l.starts_with("Verified against")) else {
        return vec!["SKILL.md: no line that begins with `Verified against`".to_owned()];
    };
    let lock = fs::read_to_string(root.join("Cargo.lock")).unwrap_or_default();
    let packages = ["snippets/typescript", "snippets/typescript/nextjs"]
        .map(|folder| root.join(folder).join("package-lock.json"))
        .map(|lock| fs::read_to_string(lock).unwrap_or_default())
        .concat();
    let word = regex::Regex::new(r"([a-z@][a-z0-9_/@-]*) (\d+\.\d+\.\d+)").unwrap();
    let mut problems = Vec::new();
    let mut seen = 0;
    for c in word.captures_iter(line) {
        seen += 1;
        let (name, version) = (&c[1], &c[2]);
        let cargo = lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n"));
        let npm = regex::Regex::new(&format!(
            r#""node_modules/{}": \{{\s*"version": "{}""#,
            regex::escape(name),
            regex::escape(version)
        ))
        .unwrap()
        .is_match(&packages);
        if !cargo && !npm {
            problems.push(format!("SKILL.md: {name} {version} is in no lock file"));
        }
    }
    if seen == 0 {
        problems.push("SKILL.md: `Verified against` names no version".to_owned());
    }
    problems
}
