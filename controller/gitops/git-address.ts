/**
 * Which repository and branch may be named. Pure.
 *
 * Invariant: what passes here can be given to git as an argument: it is no option, no remote helper (`ext::`), holds no credentials.
 */

export interface GitAddress {
  readonly protocol: 'file' | 'https' | 'ssh';
  /** As git takes it. */
  readonly url: string;
  /** With the port; empty for a local path. */
  readonly host: string;
}

export class GitAddressError extends Error {
  override readonly name = 'GitAddressError';
}

const fail = (message: string): never => {
  throw new GitAddressError(message);
};

/** @throws GitAddressError with a sentence for the person who wrote it */
export function parseGitAddress(text: string): GitAddress {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
  if (text === '' || text.length > 2048 || /[\u0000-\u001f\u007f]/.test(text)) fail('not the address of a repository');
  if (text.startsWith('-')) fail('the address of a repository cannot start with "-"');
  if (/^[A-Za-z0-9+.-]+::/.test(text)) fail('remote helpers ("name::address") are not allowed');
  if (text.startsWith('/') || text.startsWith('./') || text.startsWith('../'))
    return { protocol: 'file', url: text, host: '' };
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(text)) return parseUrl(text);
  const scp = /^(?:([A-Za-z0-9_][\w.-]*)@)?([A-Za-z0-9][\w.-]*):([^:].*)$/.exec(text);
  if (scp !== null) return { protocol: 'ssh', url: text, host: scp[2] ?? '' };
  return fail(
    `${JSON.stringify(text)} is no address of a repository: write an absolute path, https://... or ssh://...`,
  );
}

function parseUrl(text: string): GitAddress {
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    return fail('the address of the repository is not a valid URL');
  }
  if (url.password !== '' || (url.protocol === 'https:' && url.username !== '')) {
    fail('credentials do not belong into the address: give them as a file');
  }
  if (url.protocol === 'file:') return { protocol: 'file', url: decodeURIComponent(url.pathname), host: '' };
  if (!/^[A-Za-z0-9[]/.test(url.host)) fail('the host of the repository is not a valid name');
  if (url.protocol === 'https:') return { protocol: 'https', url: url.href, host: url.host };
  if (url.protocol === 'ssh:') return { protocol: 'ssh', url: url.href, host: url.host };
  return fail(`${url.protocol}// is not allowed: use https://, ssh:// or a local path`);
}

/** @throws GitAddressError */
export function checkBranch(branch: string): string {
  const sound = /^[A-Za-z0-9_][\w./+-]{0,199}$/.test(branch) && !/\.\.|\/\/|\/\.|\.lock(\/|$)|[./]$/.test(branch);
  return sound ? branch : fail(`${JSON.stringify(branch)} cannot be the name of a branch`);
}
