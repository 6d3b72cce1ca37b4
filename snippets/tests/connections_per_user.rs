//! `connections/per_user`: places are counted for each user while they are held, and nothing is kept of the others.

use snippets::connections::per_user::PerUser;

#[test]
fn each_user_has_its_own_places_and_gives_them_back() {
    let places = PerUser::new(2);
    let first = places.enter("ada").unwrap();
    let second = places.enter("ada").unwrap();
    assert!(places.enter("ada").is_none());
    let other = places.enter("bob").unwrap();
    assert_eq!(
        (first.user(), other.user(), places.users()),
        ("ada", "bob", 2)
    );
    drop(first);
    let third = places.enter("ada").unwrap();
    drop((second, third, other));
    assert_eq!(places.users(), 0);
    assert!(PerUser::new(0).enter("ada").is_none());
    assert_eq!(
        PerUser::new(0).users(),
        0,
        "a refusal leaves nothing behind"
    );
}
