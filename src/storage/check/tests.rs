//! temp
#[test]
fn cost() {
    let trail = crate::storage::ledger::tests::damage::sample(
        crate::storage::ledger::tests::trail::EVERY_ENTRY,
    );
    let dir = trail.close();
    for f in crate::disk::files_below(dir.path()).expect("x") {
        eprintln!("{} {}", f.name, f.length);
    }
    let t = std::time::Instant::now();
    for _ in 0..200 {
        let r = super::check(dir.path(), None).expect("x");
        assert!(r.is_sound());
    }
    eprintln!("check {:?}", t.elapsed() / 200);
    let data = crate::disk::Dir::open(dir.path(), true).expect("x");
    let t = std::time::Instant::now();
    for _ in 0..200 {
        super::files::check(&data, &mut Default::default()).expect("x");
    }
    eprintln!("files {:?}", t.elapsed() / 200);
    let files = super::files::check(&data, &mut Default::default()).expect("x");
    let t = std::time::Instant::now();
    for _ in 0..200 {
        super::compare::Derived::open(&data, None, &files, &mut Default::default())
            .map(drop)
            .expect("x");
    }
    eprintln!("derived {:?}", t.elapsed() / 200);
    let t = std::time::Instant::now();
    for _ in 0..200 {
        super::segments::walk(&data, &files, &mut Default::default(), &mut |_, _| {}).expect("x");
    }
    eprintln!("walk {:?}", t.elapsed() / 200);
}
