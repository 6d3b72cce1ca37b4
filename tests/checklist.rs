//! Every checklist item has an id, a proof that `./check` runs (or a dated source), and a probe
//! check or the word review.

#![allow(missing_docs)]

mod pack;

#[test]
fn every_item_is_proven() {
    pack::report(&pack::checklist::check(&pack::root()));
}
