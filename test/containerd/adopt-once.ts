import { Adopter } from './adopter.ts';

/** `adopt-once.ts SOCKET NAMESPACE ROOT LAYOUT TAG NAME`: a process that unpacks one image and records it. Tests kill it. */
const [socket = '', namespace = '', stateRoot = '', layout = '', tag = '', name = ''] = process.argv.slice(2);
await using adopter = await Adopter.open({ socket, namespace, snapshotter: 'overlayfs', stateRoot, durable: false });
await adopter.adopt(layout, tag, name);
