import { after, before, describe } from 'node:test';
import '../support/needs-root.ts';
import { snapshotterSuite } from '../snapshots/suite.ts';
import { Daemon, PROGRAMS, skipWithoutContainerd } from './daemon.ts';
import { withContainerdStore } from './temporary-store.ts';

for (const program of PROGRAMS) {
  describe(`overlayfs of containerd ${program.version}`, { skip: skipWithoutContainerd() }, () => {
    let daemon: Daemon;
    before(async () => {
      daemon = await Daemon.start(program);
    });
    after(() => daemon[Symbol.asyncDispose]());

    snapshotterSuite('containerd', (body) => withContainerdStore(daemon, body));
  });
}
