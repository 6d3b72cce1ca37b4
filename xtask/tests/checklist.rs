//! Every checklist item has an id, a proof that `./check` runs (or a dated source), and a probe
//! check or the word review.

#[test]
fn every_item_is_proven() {
    xtask::report(&xtask::checklist::check(&xtask::root()));
}

/// An id in a chapter or in SKILL.md that the checklist does not have would send a reader nowhere.
#[test]
fn every_id_that_a_text_names_exists() {
    let root = xtask::root();
    let items = xtask::checklist::read_all(&root).unwrap_or_default();
    let known: std::collections::BTreeSet<_> = items.iter().map(|item| item.id.as_str()).collect();
    let mut texts = vec![std::path::PathBuf::from("SKILL.md")];
    for (topic, _, _) in xtask::checklist::TOPICS {
        let folder = std::path::Path::new("book/src").join(topic);
        xtask::walk(&root, &folder, &mut |path| texts.push(path.to_owned()));
    }
    let mut problems = Vec::new();
    for path in texts
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
    {
        let text = std::fs::read_to_string(root.join(path)).unwrap_or_default();
        for span in text.split('`').skip(1).step_by(2) {
            let prefix = xtask::checklist::TOPICS
                .iter()
                .any(|topic| span.starts_with(topic.2));
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            // The probe's own name, and wrong twins.
            let other = span == "stream-probe" || span.ends_with("-listener");
            if prefix && !other && span.chars().all(plain) && !known.contains(span) {
                problems.push(format!("{}: no checklist item {span}", path.display()));
            }
        }
    }
    xtask::report(&problems);
}
