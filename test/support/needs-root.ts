/**
 * Imported by test files that need root: for devices, mounts or files of other owners. Without root, `npm test` leaves these
 * files out and says so (test/run.ts).
 */
if (process.getuid?.() !== 0) throw new Error('this test needs root: sudo npm test');

export {};
