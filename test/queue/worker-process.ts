import { loadConfig } from '../../src/config.ts';
import { createLog } from '../../src/queue/log.ts';
import { stopSignal, UnpackWorker } from '../../src/queue/worker.ts';
import { image, scriptedUnpacker, untilAborted } from './scripted-unpacker.ts';

/**
 * A worker process that tests stop and kill. It is like workers/unpack.ts without the unpacking: a job of the bucket `quick` ends
 * at once, of `until-told` when the process gets SIGUSR2, of any other bucket when it is aborted.
 */
const config = loadConfig();
const log = createLog(config);
const told = Promise.withResolvers<void>();
process.on('SIGUSR2', () => told.resolve());
const worker = new UnpackWorker({
  settings: config,
  unpacker: scriptedUnpacker(async (call) => {
    if (call.bucket === 'quick') return [image('applied')];
    if (call.bucket !== 'until-told') return untilAborted(call);
    call.onResolved?.([image('applying')]);
    await told.promise;
    return [image('applied')];
  }),
  policy: {
    connection: { region: 'here', forcePathStyle: true, connectTimeout: 1000, idleTimeout: 1000, maxResumes: 1 },
    buckets: [],
  },
  store: { root: '/store', snapshotter: 'overlay' },
  log,
});
const stop = stopSignal(log);
await worker.start();
log.info('ready');
await new Promise<void>((resolve) => stop.addEventListener('abort', () => resolve()));
await worker.close();
process.exit(0);
