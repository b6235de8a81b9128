import type { Snapshotter } from '../../src/snapshots/snapshotter.ts';

/** A store with some methods or properties replaced, also for the calls under a lease. */
export function altered<S extends Snapshotter>(store: S, changes: Partial<S>): S {
  return new Proxy(store, {
    get(target, property, receiver) {
      const changed: unknown = Reflect.get(changes, property);
      if (changed !== undefined) return changed;
      if (property === 'under') return () => receiver;
      const own: unknown = Reflect.get(target, property, target);
      return typeof own === 'function' ? own.bind(target) : own;
    },
  });
}
