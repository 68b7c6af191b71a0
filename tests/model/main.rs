//! `indelible-model NAME [KEY=VALUE]...`: searches one model as far as it is told, and prints how
//! many states it has. For limits that take longer than the gate may.

use std::process::ExitCode;
use std::time::Instant;

use indelible_model::disk::Files;
use indelible_model::health::recovers;
use indelible_model::{LIVE, Limits, Rules, SAFE, Setting};
use stateright::{Checker, HasDiscoveries, Model};

const USAGE: &str = "usage: indelible-model quiet|wiped|restored|noted|genesis|added|copied \
[target|starts|restarts|terms|events|notes|images|touches=NUMBER] \
[wiped|restored=FILES] [remove=1] [without=RULE]";

fn main() -> ExitCode {
    match setting(std::env::args().skip(1)) {
        Some(setting) => search(setting),
        None => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn setting(mut arguments: impl Iterator<Item = String>) -> Option<Setting> {
    let mut limits = match arguments.next()?.as_str() {
        "quiet" => Limits::QUIET,
        "wiped" => Limits::WIPED,
        "restored" => Limits::RESTORED,
        "noted" => Limits::NOTED,
        "genesis" => Limits::GENESIS,
        "added" => Limits::ADDED,
        "copied" => Limits::COPIED,
        _ => return None,
    };
    let mut rules = Rules::ALL;
    for argument in arguments {
        let (key, value) = argument.split_once('=')?;
        if key == "without" {
            *rules.by_name(value)? = false;
            continue;
        }
        let value: u8 = value.parse().ok()?;
        match key {
            "target" => limits.target = value.into(),
            "starts" => limits.starts = value,
            "restarts" => limits.restarts = value,
            "terms" => limits.terms = value,
            "events" => limits.events = value,
            "notes" => limits.notes = value,
            "images" => limits.images = value,
            "touches" => limits.touches = value,
            "wiped" => limits.wiped = Files(value),
            "restored" => limits.restored = Files(value),
            "remove" => limits.remove = value > 0,
            _ => return None,
        }
    }
    Some(Setting { rules, limits, is_recovery_checked: true })
}

fn search(setting: Setting) -> ExitCode {
    let began = Instant::now();
    let checker = setting.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{states} states, {depth} steps deep, {:.1} s", began.elapsed().as_secs_f64());
    let mut code = ExitCode::SUCCESS;
    for (name, path) in checker.discoveries() {
        if name != SAFE && name != LIVE {
            continue;
        }
        code = ExitCode::FAILURE;
        let last = path.last_state();
        println!("broken: {name}: {:?}, {:?}", last.truth.broken, recovers(&setting, last));
        for action in path.into_actions() {
            println!("  {action:?}");
        }
    }
    code
}
