/**
 * Imported by tests that write devices, mounts, files of other owners or what else only root may, as a worker does. For
 * anybody else `npm test` leaves their files out, and says so (test/run.ts).
 */
if (process.getuid?.() !== 0) throw new Error('this test needs root: sudo npm test');

export {};
