//! What goes wrong with machines and links, one thing after the other.

use std::sync::Arc;

use tokio::time::sleep;

use crate::client::CLIENTS;
use crate::host::{HOSTS, Hosts};
use crate::life::Pace;
use crate::store::STORE;
use crate::world::World;

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Sleep,
    Part,
}

/// The longest sleep and the longest partition, in milliseconds: long enough for a take-over and for retention.
pub const LONGEST: u64 = 25_000;

/// Until the world calms down.
pub async fn rage(world: Arc<World>, hosts: Arc<Hosts>) {
    let setting = &world.setting;
    let faults = [(Fault::Kill, setting.crashes), (Fault::Sleep, setting.pauses), (Fault::Part, setting.partitions)];
    let faults: Vec<Fault> = faults.into_iter().filter_map(|(fault, happens)| happens.then_some(fault)).collect();
    while world.is_wild() && !faults.is_empty() {
        sleep(world.dice.time(100, 2 * setting.calm_between)).await;
        let fault = world.dice.one(&faults);
        tokio::spawn(happen(world.clone(), hosts.clone(), fault));
    }
}

async fn happen(world: Arc<World>, hosts: Arc<Hosts>, fault: Fault) {
    // Most of what can go wrong goes wrong with the control role.
    let host = if world.dice.chance(0.7) { world.dice.one(&HOSTS[..2]) } else { world.dice.one(&HOSTS) };
    if !world.is_wild() {
        return;
    }
    let length = world.dice.time(200, LONGEST);
    match fault {
        Fault::Kill => hosts.life(host).set(Pace::Dead { told: world.dice.chance(0.7) }),
        Fault::Sleep => {
            world.note(host, format!("sleeps for {length:?}"));
            let life = hosts.life(host);
            life.set(Pace::Sleeps);
            sleep(length).await;
            life.set(Pace::Runs);
            world.note(host, "wakes");
        }
        Fault::Part => {
            let (near, far) = sides(&world, host);
            world.note(host, format!("is with {near:?} and not with {far:?} for {length:?}"));
            let pairs = || near.iter().flat_map(|a| far.iter().map(move |b| (a, b)));
            pairs().for_each(|(a, b)| world.net.part(a, b));
            sleep(length).await;
            pairs().for_each(|(a, b)| world.net.join(a, b));
        }
    }
}

/// Two halves of the network, or one host and those that it alone does not reach.
fn sides(world: &World, host: &'static str) -> (Vec<&'static str>, Vec<&'static str>) {
    let others = [&HOSTS[..], &CLIENTS, &[STORE]].concat().into_iter().filter(|other| *other != host);
    let share = world.dice.one(&[0.2, 0.5, 0.7, 1.0]);
    let (far, near): (Vec<&str>, Vec<&str>) = others.partition(|_| world.dice.chance(share));
    let near = if world.dice.chance(0.5) { near } else { Vec::new() };
    ([&[host], &near[..]].concat(), far)
}
