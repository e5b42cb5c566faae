//! Ranks that are threads of one process.

use std::sync::{Arc, Barrier, Mutex};

use collective::{Collective, Error};
use tch::{Kind, Tensor};

/// One rank of a group within the process.
pub struct Loopback {
    rank: usize,
    shared: Arc<Shared>,
}

struct Shared {
    turn: Barrier,
    places: Mutex<Vec<Option<Tensor>>>,
}

/// Runs `work` on `world` ranks, each on its own thread, and returns what they return in rank order.
pub fn ranks<T: Send>(world: usize, work: impl Fn(&dyn Collective) -> T + Sync) -> Vec<T> {
    let places = (0..world).map(|_| None).collect();
    let shared = Arc::new(Shared { turn: Barrier::new(world), places: Mutex::new(places) });
    std::thread::scope(|scope| {
        let start = |rank| {
            let (shared, work) = (shared.clone(), &work);
            scope.spawn(move || {
                tch::set_num_threads(1);
                work(&Loopback { rank, shared })
            })
        };
        let threads: Vec<_> = (0..world).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

impl Collective for Loopback {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.shared.places.lock().unwrap().len()
    }

    fn all_reduce(&self, tensor: &mut Tensor) -> Result<(), Error> {
        let sum = self.all_gather(tensor)?.into_iter().reduce(|sum, next| sum + next).unwrap();
        tensor.copy_(&sum);
        Ok(())
    }

    fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<(), Error> {
        let all = self.all_gather(tensor)?;
        tensor.copy_(&all[root]);
        Ok(())
    }

    fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, Error> {
        // As the real ones do.
        let kind = tensor.kind();
        assert!(matches!(kind, Kind::Float | Kind::BFloat16 | Kind::Int64), "{kind:?} is not sent");
        self.shared.places.lock().unwrap()[self.rank] = Some(tensor.detach().copy());
        self.shared.turn.wait();
        let all = self.shared.places.lock().unwrap().iter().map(|place| place.as_ref().unwrap().copy()).collect();
        self.shared.turn.wait();
        Ok(all)
    }

    fn barrier(&self) -> Result<(), Error> {
        self.shared.turn.wait();
        Ok(())
    }

    fn abort(&mut self) {}
}
