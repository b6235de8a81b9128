import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg, release, totalmem } from 'node:os';
import { versionOf } from './commands.ts';

/** The machine and the programs that the figures were measured with. They are part of each report. */
export interface Machine {
  readonly processor: string;
  readonly processors: number;
  readonly memoryBytes: number;
  readonly kernel: string;
  readonly system: string;
  readonly node: string;
  /** Versions of the other programs and of what they use. */
  readonly programs: Readonly<Record<string, string>>;
  /** The commit, with `+` if src or workers have uncommitted changes. */
  readonly commit: string;
  readonly load: number;
}

const PROGRAMS: Readonly<Record<string, string>> = {
  containerd: '--version',
  umoci: '--version',
  podman: '--version',
  tar: '--version',
  bsdtar: '--version',
  igzip: '--version',
  zstd: '--version',
  openssl: 'version',
  'docker-registry': '--version',
  'redis-server': '--version',
};

export function describeMachine(packageRoot: string): Machine {
  const versions = Object.entries(PROGRAMS).flatMap(([program, flag]) => {
    const version = versionOf(program, flag);
    return version === undefined ? [] : [[program, version] as const];
  });
  return {
    processor: cpus()[0]?.model.trim() ?? 'unknown',
    processors: availableParallelism(),
    memoryBytes: totalmem(),
    kernel: release(),
    system: /^PRETTY_NAME="(.*)"$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? 'Linux',
    node: process.version,
    programs: Object.fromEntries(versions),
    commit: commitOf(packageRoot),
    load: loadavg()[0] ?? 0,
  };
}

function commitOf(packageRoot: string): string {
  const git = (...args: string[]) =>
    execFileSync('git', ['-C', packageRoot, ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  try {
    return `${git('rev-parse', '--short', 'HEAD')}${git('status', '--porcelain', 'src', 'workers') === '' ? '' : '+'}`;
  } catch {
    return 'unknown'; // no git repository
  }
}
