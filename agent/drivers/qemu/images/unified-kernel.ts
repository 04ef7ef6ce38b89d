/**
 * A unified kernel image: systemd's EFI stub, kernel and initramfs in one PE file, so that the firmware measures all of it as one
 * application before it starts.
 *
 * Invariant: the stub's own sections stay as they are; the added ones begin on pages behind them, the kernel last, because it
 * unpacks itself beyond its end.
 */

const pageBytes = 0x1000;
const roundUp = (value: number, to: number): number => Math.ceil(value / to) * to;
/** Initialized data, readable. */
const characteristics = 0x4000_0040;

export function unifiedKernel(stub: Buffer, parts: { osRelease: string; kernel: Buffer; initrd: Buffer }): Buffer {
  const pe = stub.readUInt32LE(0x3c);
  const optional = pe + 24;
  const table = optional + stub.readUInt16LE(pe + 20);
  const count = stub.readUInt16LE(pe + 6);
  const fileAlignment = stub.readUInt32LE(optional + 36);
  const ends = Array.from({ length: count }, (_, index) => {
    const at = table + index * 40;
    return {
      file: stub.readUInt32LE(at + 20) + stub.readUInt32LE(at + 16),
      memory: stub.readUInt32LE(at + 12) + stub.readUInt32LE(at + 8),
    };
  });
  const added: [string, Buffer][] = [
    ['.osrel', Buffer.from(parts.osRelease)],
    ['.initrd', parts.initrd],
    ['.linux', parts.kernel],
  ];
  if (table + (count + added.length) * 40 > stub.readUInt32LE(optional + 60)) {
    throw new Error('the EFI stub has no room for more sections in its header');
  }
  let file = roundUp(Math.max(...ends.map((end) => end.file)), fileAlignment);
  let memory = Math.max(...ends.map((end) => end.memory));
  // Symbols behind the sections are for debuggers only.
  const whole: Buffer[] = [Buffer.concat([stub.subarray(0, file), Buffer.alloc(Math.max(0, file - stub.length))])];
  const [head = Buffer.alloc(0)] = whole;
  head.writeUInt32LE(0, pe + 12);
  head.writeUInt32LE(0, pe + 16);
  for (const [index, [name, bytes]] of added.entries()) {
    memory = roundUp(memory, pageBytes);
    const raw = roundUp(bytes.length, fileAlignment);
    const at = table + (count + index) * 40;
    head.fill(0, at, at + 40);
    head.write(name, at, 'latin1');
    head.writeUInt32LE(bytes.length, at + 8);
    head.writeUInt32LE(memory, at + 12);
    head.writeUInt32LE(raw, at + 16);
    head.writeUInt32LE(file, at + 20);
    head.writeUInt32LE(characteristics, at + 36);
    whole.push(bytes, Buffer.alloc(raw - bytes.length));
    file += raw;
    memory += bytes.length;
  }
  head.writeUInt16LE(count + added.length, pe + 6);
  head.writeUInt32LE(roundUp(memory, pageBytes), optional + 56);
  head.writeUInt32LE(0, optional + 64);
  return Buffer.concat(whole);
}
