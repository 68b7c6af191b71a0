//! What commands that change the group say before and after.

use std::collections::BTreeSet;
use std::io::IsTerminal;

use anyhow::{Context, bail};
use indelible_client::NodeStatus;
use serde_json::json;

use super::{Global, output};

/// The voters, as the node with most of the trail says.
pub(super) fn voters(nodes: &[NodeStatus]) -> BTreeSet<u64> {
    let views = nodes.iter().filter_map(|node| node.view.as_ref().ok());
    let newest = views.max_by_key(|view| view.applied_index);
    let members = newest.map(|view| &view.nodes[..]).unwrap_or_default();
    members.iter().filter(|node| node.voter).map(|node| node.id).collect()
}

/// What is wrong with a group of so many voters; none if nothing is.
fn warning(voters: usize) -> Option<String> {
    if voters == 0 || voters % 2 == 1 {
        return None;
    }
    let (majority, failures) = (voters / 2 + 1, (voters - 1) / 2);
    let fewer = voters - 1;
    Some(format!(
        "the group will have {voters} voters: {majority} of them must answer, and it survives {failures} failures, no more \
         than with {fewer}; hint: an odd number of voters"
    ))
}

/// Warns of an even number of voters before anything is recorded, and lets a person decide.
pub(super) fn confirm(global: &Global, voters: usize, yes: bool) -> anyhow::Result<()> {
    let Some(warning) = warning(voters) else { return Ok(()) };
    eprintln!("warning: {warning}");
    let is_person = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if yes || global.json || !is_person {
        return Ok(());
    }
    eprint!("change the group all the same? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("read the answer")?;
    if !["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
        bail!("nothing was changed");
    }
    Ok(())
}

/// What a change of the group ends with.
pub(super) fn print_voters(global: &Global, voters: &[u64]) -> anyhow::Result<()> {
    if global.json {
        output::print(json!({ "voters": voters }))?;
    } else {
        let voters: Vec<String> = voters.iter().map(u64::to_string).collect();
        output::print(format_args!("the voters are nodes {}", voters.join(", ")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_number_of_voters_is_no_better_than_one_fewer() {
        for odd in [1, 3, 5, 7] {
            assert_eq!(warning(odd), None);
        }
        let four = warning(4).unwrap();
        assert!(four.contains("3 of them must answer, and it survives 1 failures"), "{four}");
        assert!(warning(2).unwrap().contains("survives 0 failures, no more than with 1"));
    }
}
