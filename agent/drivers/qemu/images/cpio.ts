/**
 * An initramfs: a cpio archive in the "newc" form that Linux unpacks at its start.
 *
 * Invariant: the bytes depend on the entries alone (order as given, no times, everything owned by root).
 */

export type Entry =
  | { readonly path: string; readonly kind: 'Directory' }
  | { readonly path: string; readonly kind: 'File'; readonly mode: number; readonly bytes: Uint8Array }
  | { readonly path: string; readonly kind: 'Link'; readonly target: string }
  | { readonly path: string; readonly kind: 'Device'; readonly major: number; readonly minor: number };

const typeBits = { Directory: 0o040_000, File: 0o100_000, Link: 0o120_000, Device: 0o020_000 } as const;

export function cpio(entries: readonly Entry[]): Buffer {
  const parts = entries.flatMap((entry, index) => record(entry, index + 1));
  parts.push(header({ path: 'TRAILER!!!', ino: 0, mode: 0, size: 0, links: 1, major: 0, minor: 0 }));
  const whole = Buffer.concat(parts);
  return Buffer.concat([whole, Buffer.alloc(-whole.length & 511)]);
}

function record(entry: Entry, ino: number): Buffer[] {
  const content =
    entry.kind === 'File' ? entry.bytes : entry.kind === 'Link' ? Buffer.from(entry.target) : Buffer.alloc(0);
  const permissions = entry.kind === 'File' ? entry.mode : entry.kind === 'Device' ? 0o600 : 0o755;
  return [
    header({
      path: entry.path,
      ino,
      mode: typeBits[entry.kind] | permissions,
      size: content.length,
      links: entry.kind === 'Directory' ? 2 : 1,
      major: entry.kind === 'Device' ? entry.major : 0,
      minor: entry.kind === 'Device' ? entry.minor : 0,
    }),
    Buffer.from(content),
    Buffer.alloc(-content.length & 3),
  ];
}

interface Header {
  readonly path: string;
  readonly ino: number;
  readonly mode: number;
  readonly size: number;
  readonly links: number;
  readonly major: number;
  readonly minor: number;
}

function header({ path, ino, mode, size, links, major, minor }: Header): Buffer {
  const name = Buffer.from(`${path}\0`);
  const fields = [ino, mode, 0, 0, links, 0, size, 0, 0, major, minor, name.length, 0];
  const text = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`;
  const whole = Buffer.concat([Buffer.from(text), name]);
  return Buffer.concat([whole, Buffer.alloc(-whole.length & 3)]);
}
