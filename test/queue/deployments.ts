import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { checkQueue } from '../../src/doctor/queue.ts';
import { checkRedis } from '../../src/doctor/redis.ts';
import { impatientConnection } from '../../src/queue/connection.ts';
import {
  type Deployment,
  type DeploymentOptions,
  startCluster,
  startSentinels,
  startServer,
} from '../support/redis-deployments.ts';
import { eventually, payload, queueFixture, testSettings } from './queue-fixture.ts';
import { image, listing, presenceOf, type Script } from './scripted-unpacker.ts';

/**
 * What a queue needs, for each deployment of Redis and of Valkey: jobs, waiting, cancelling, confirmed jobs, and a failover in the
 * middle.
 */

const DOCTOR: Readonly<Record<Kind, readonly [check: string, finding: RegExp]>> = {
  'on one server': ['Redis replicas', /^a primary with 0 connected replicas$/],
  'behind sentinels': ['Sentinels', /^3 of 3 answer; quorum 2, down-after 1000 ms, failover-timeout 5000 ms$/],
  'in a cluster': [
    'Redis cluster',
    /^6 of 6 nodes in REDIS_URL answer: 3 primaries, 3 replicas; 16384 slots assigned; version \d[\d.]+$/,
  ],
};

const STARTS = {
  'on one server': startServer,
  'behind sentinels': startSentinels,
  'in a cluster': startCluster,
} as const satisfies Record<string, (options: DeploymentOptions) => Promise<Deployment>>;
type Kind = keyof typeof STARTS;

/**
 * @param server the name of the server in the messages of doctor
 * @param program the path of the server's program; default: the first one that is on the PATH
 */
export function testDeployments(server: 'Redis' | 'Valkey', kinds: readonly Kind[], program?: string): void {
  for (const kind of kinds) testDeployment(server, kind, program);
}

function testDeployment(server: 'Redis' | 'Valkey', kind: Kind, program: string | undefined): void {
  describe(`a queue in ${server} ${kind}`, () => {
    let deployment: Deployment;
    const fixture = queueFixture();
    before(async () => {
      deployment = await STARTS[kind]({ password: 's3cr3t-data', ...(program === undefined ? {} : { program }) });
    });
    after(() => deployment[Symbol.asyncDispose]());
    const settings = () =>
      testSettings(deployment.url.replace('://', '://:s3cr3t-data@'), {
        UNPACK_REDIS_PREFIX: '{bull}',
        UNPACK_LOCK: '5s',
      });

    test('runs jobs, reports them to those who wait, and cancels them', async () => {
      const own = settings();
      const { promise: begun, resolve: begin } = Promise.withResolvers<void>();
      const script: Script = async ({ bucket, signal }) => {
        if (bucket !== 'slow') return [image('applied')];
        begin();
        return new Promise((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason)));
      };
      await fixture.worker(own, script, { presence: presenceOf('a'.repeat(32), async () => [listing(1)]) });
      const queue = fixture.producer(own);
      const job = await queue.add(payload('one'));
      assert.equal((await queue.wait(job)).version, 1);
      const slow = await queue.add(payload('slow'));
      await begun;
      assert.equal(await queue.cancel(slow.id, 'enough'), true);
      await assert.rejects(queue.wait(slow), /the job was cancelled: enough/);
      await eventually('images are listed', async () => (await queue.overview()).workers[0]?.images === 1);
      const checks = [...(await checkRedis(own)), ...(await checkQueue(own))];
      assert.deepEqual(
        checks.filter(({ status }) => status === 'fail'),
        [],
      );
      const finding = (name: string) => checks.find((check) => check.name === name)?.finding ?? '';
      assert.match(finding('Redis'), new RegExp(`^${server} \\d[\\d.]+ at redis`));
      if (kind !== 'on one server')
        assert.match(finding('Redis replicas'), /^a primary with [12] connected replicas?; min-replicas-to-write 0: /);
      const [name, pattern] = DOCTOR[kind];
      assert.match(finding(name), pattern);
      assert.match(checks.find(({ name }) => name === 'Workers')?.finding ?? '', /^1 connected: worker-1/);
    });

    if (kind === 'on one server') return;

    test('an added job has been confirmed by a replica, or the call fails and names the replicas', async (t) => {
      const own = { ...settings(), UNPACK_REDIS_REPLICAS: 1 };
      // with more time the call would be made a second time
      const queue = fixture.producer(own, 4000);
      const admin = deployment.admin(await deployment.primary());
      const { id } = await queue.add(payload('one'));
      const [, , replicas] = (await admin.call('ROLE')) as [string, number, string[][]]; // of a primary
      const copies = deployment.servers.filter(({ port }) =>
        replicas.some(([, replicaPort]) => Number(replicaPort) === port),
      );
      assert.ok(copies.length > 0);
      for (const { pid } of copies) {
        process.kill(pid, 'SIGSTOP');
        t.after(() => process.kill(pid, 'SIGCONT'));
      }
      await assert.rejects(queue.add(payload('two')), (error: Error) => {
        assert.equal(error.name, 'QueueUnavailableError');
        assert.match(
          error.message,
          /has not confirmed the change: 0 of 1 replicas \(UNPACK_REDIS_REPLICAS\) have it after 2(\.0)? s; start the missing/,
        );
        return true;
      });
      for (const { pid } of copies) process.kill(pid, 'SIGCONT');
      const again = await eventually('a replica confirms', () => queue.add(payload('two')).catch(() => undefined));
      assert.deepEqual([again.deduplicated, (await queue.counts()).waiting], [true, 2]);
      assert.equal(await queue.cancel(id), true);
    });

    test('many refused answers at the same time print no warning of Node', async (t) => {
      const admin = deployment.admin(await deployment.primary());
      await admin.config('SET', 'min-replicas-to-write', '5');
      t.after(() => admin.config('SET', 'min-replicas-to-write', '0'));
      const warnings: string[] = [];
      const listen = ({ message }: Error) => void warnings.push(message);
      process.on('warning', listen);
      t.after(() => process.off('warning', listen));
      const connection = impatientConnection(settings(), 5000);
      t.after(() => connection.disconnect());
      connection.on('error', () => {});
      await eventually('it is connected', () => connection.status === 'ready');
      const answers = await Promise.allSettled(Array.from({ length: 50 }, () => connection.set('{bull}', '')));
      assert.ok(answers.every(({ status }) => status === 'rejected'));
      await eventually('it connects again', () => connection.status === 'ready');
      assert.deepEqual(warnings, []);
    });

    test('finishes its jobs when the primary is killed while they run', async () => {
      const own = settings();
      const release = Promise.withResolvers<void>();
      let runs = 0;
      const worker = await fixture.worker(own, async () => {
        runs++;
        await release.promise;
        return [image('applied')];
      });
      const queue = fixture.producer(own);
      const jobs = await queue.addBulk(['one', 'two', 'three'].map((bucket) => ({ payload: payload(bucket) })));
      const results = Promise.all(jobs.map((job) => queue.wait(job)));
      await eventually('all run', () => runs >= 3);
      const primary = await deployment.primary();
      // what was written last would be lost with the primary otherwise
      await deployment.admin(primary).call('WAIT', '1', '5000');
      await primary.kill();
      await eventually(
        'there is another primary',
        async () => (await deployment.primary().catch(() => primary)) !== primary,
      );
      release.resolve();
      assert.equal((await results).length, 3);
      const { id } = await queue.add(payload('later'));
      await queue.wait(id);
      await eventually('the outage has ended', () => worker.log.some(({ msg }) => msg === 'Redis is back'));
      const lines = worker.log.filter(({ level }) => Number(level) >= 40).map(({ msg }) => String(msg));
      assert.ok(
        lines.every((line) => /^Redis /.test(line)),
        lines.join('\n'),
      );
      assert.doesNotMatch(JSON.stringify(worker.log), /s3cr3t/);
    });
  });
}
