import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { atExit } from '../at-exit.ts';
import type { Build } from '../build.ts';

/** `unpackd snapshotter`, which serves a store to containerd. It ends when this process ends. */
export interface SnapshotterProcess {
  readonly socket: string;
  readonly pid: number;
  stop(): Promise<void>;
}

const PATIENCE = 15_000;

/** @throws Error with the end of its log if it does not start */
export async function startSnapshotter(build: Build, root: string, socket: string): Promise<SnapshotterProcess> {
  const args = [build.cli, 'snapshotter', '--address', socket, '--root', root];
  const child = spawn(build.node, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  atExit(() => child.kill('SIGKILL'));
  let log = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      log = (log + text).slice(-2000);
    });
  }
  const deadline = performance.now() + PATIENCE;
  while (!existsSync(socket)) {
    if (child.exitCode !== null || performance.now() > deadline) {
      child.kill('SIGKILL');
      throw new Error(`unpackd snapshotter did not start: ${log.trim()}`);
    }
    await sleep(50);
  }
  return {
    socket,
    pid: child.pid ?? -1,
    async stop() {
      if (child.exitCode !== null) return;
      const ended = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGTERM');
      await ended;
    },
  };
}
