/** Runs the programs of the lab: ip, qemu-img, qemu-system-x86_64, dnsmasq. Never through a shell. */
import { execFile } from 'node:child_process';

/** @throws Error with what the program printed; its `cause` has the exit status as `code` */
export function run(program: string, args: readonly string[], input?: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = execFile(program, args, { maxBuffer: 16 * 2 ** 20 }, (error, stdout, stderr) => {
      if (error === null) resolve(stdout);
      else if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
        reject(new Error(`${program} is not installed: docs/lab.md lists the packages that the lab needs`));
      } else {
        const said = stderr.trim() || stdout.trim() || error.message;
        reject(new Error(`${program} ${args.slice(0, 6).join(' ')}: ${said}`, { cause: error }));
      }
    });
    if (input !== undefined) child.stdin?.end(input);
  });
}
