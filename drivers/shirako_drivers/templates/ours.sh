# What of ours, and of our guests', is on a node with accounts. Nothing here changes anything.
#
# Given: state, comment_mark, directory_mark, uid_min, uid_end, clean_paths.
#
# Ours are the account that the note $state/account names, the accounts whose comment begins with
# $comment_mark, and what bears a number from uid_min to before uid_end that is nobody else's.

password_entry() { awk -F: -v name="$1" '$1 == name' /etc/passwd; }
group_entry() { awk -F: -v name="$1" '$1 == name' /etc/group; }

# Lines `name uid home`.
our_accounts() {
  {
    [ ! -s "$state/account" ] || head -n 1 "$state/account"
    awk -F: -v mark="$comment_mark" 'index($5, mark) == 1 { print $1, $3, $6 }' /etc/passwd
  } | sort -u
}

# Names of accounts of this node that have the number $1 and are not ours.
others_with() {
  noted=
  [ ! -s "$state/account" ] || read -r noted _ <"$state/account"
  awk -F: -v u="$1" -v mark="$comment_mark" -v noted="$noted" '
    $3 == u && index($5, mark) != 1 && $1 != noted { print $1 }' /etc/passwd
}

# Whether a number that no account of the node has is somebody's all the same. The directory may
# name our guests' accounts on every machine of the site, and says in the comment that it is ours.
is_known_elsewhere() {
  known=$(getent passwd "$1" 2>/dev/null | head -n 1)
  [ -n "$known" ] && [ "$(echo "$known" | cut -d : -f 5)" != "$directory_mark" ]
}

# Calls `find` with "$@" on what is in the folders that every account may write to.
find_files() {
  folders=
  for path in $clean_paths; do
    [ ! -d "$path" ] || folders="$folders $path"
  done
  # One folder a word.
  # shellcheck disable=SC2086
  [ -z "$folders" ] || find $folders -xdev -mindepth 1 "$@"
}

# Numbers in our range that are seen on the node and belong to no account in /etc/passwd.
stray_uids() {
  note=/dev/null
  [ ! -s "$state/account" ] || note=$state/account
  {
    cat /proc/[0-9]*/status 2>/dev/null | awk '
      /^State:/ { state = $2 }
      /^Uid:/ && state !~ /[ZX]/ { print $2; print $3; print $4; print $5 }'
    find_files -uid "+$((uid_min - 1))" -uid "-$uid_end" -printf '%U\n' 2>/dev/null
    find /home -mindepth 1 -maxdepth 1 -printf '%U\n' 2>/dev/null
    ipc_objects | awk '{ print $3; print $4 }'
  } | awk -v min="$uid_min" -v end="$uid_end" '
    FILENAME != "-" { split($0, field, FILENAME == "/etc/passwd" ? ":" : " ") }
    FILENAME == "/etc/passwd" { known[field[3]]; next }
    FILENAME != "-" { known[field[2]]; next }
    $1 >= min && $1 < end && !($1 in known) && !seen[$1]++' /etc/passwd "$note" - |
    while read -r number; do
      is_known_elsewhere "$number" || echo "$number"
    done
}

# Groups like those that we make, whose account is gone.
stray_groups() {
  awk -F: -v min="$uid_min" -v end="$uid_end" '
    NR == FNR { name[$1]; gid[$4]; next }
    $1 ~ /^s-/ && $3 >= min && $3 < end && !($1 in name) && !($3 in gid) { print $1 }' \
    /etc/passwd /etc/group
}

# Processes of number $1, and of name $2 if it is given.
processes_of() {
  cat /proc/[0-9]*/status 2>/dev/null | awk -v u="$1" '
    /^State:/ { state = $2 }
    /^Pid:/ { pid = $2 }
    /^Uid:/ && state !~ /[ZX]/ && ($2 == u || $3 == u || $4 == u || $5 == u) { print pid }'
  # sshd's own processes for this user, which are root's until the login is done.
  [ -z "$2" ] || grep -lazE "^sshd(-session|-auth)?: $2( |@|\$)" /proc/[0-9]*/cmdline 2>/dev/null |
    cut -d / -f 3
}

# Topmost files of number $1, one a line whatever their names are.
files_of() {
  find_files -uid "$1" -prune -print0 2>/dev/null | tr '\n\0' '?\n' | sort -u
}

# Lines `kind id uid cuid`. Columns differ by kind; the header names them.
ipc_objects() {
  cat /proc/sysvipc/* 2>/dev/null | awk '
    $1 == "key" { kind = substr($2, 1, 3); for (i = 1; i <= NF; i++) column[$i] = i; next }
    { print kind, $2, $column["uid"], $column["cuid"] }'
}

# Lines `kind id` of number $1. An object's creator may give it away: both count.
ipc_of() {
  ipc_objects | awk -v u="$1" '$3 == u || $4 == u { print $1, $2 }'
}

# At most 20 lines, each as `$1 line of $2`.
told() {
  awk -v kind="$1" -v whose="$2" '
    NR <= 20 { print kind, $0, "of", whose }
    END { if (NR > 20) print kind, "and", NR - 20, "more, of", whose }'
}

# What is there of number $1, called $2; $3 is the account's name, if it has one.
traces() {
  processes_of "$1" "$3" | sort -un | told process "$2"
  files_of "$1" | told file "$2"
  ipc_of "$1" | told "IPC object" "$2"
}

# Lines about what should not be there; of the accounts on stdin, all but $1, whose number is $2.
remains() {
  while read -r name number place; do
    [ -n "$name" ] && [ "$name" != "$1" ] || continue
    [ -z "$(password_entry "$name")" ] || echo "account $name"
    [ -z "$(group_entry "$name")" ] || echo "group $name"
    [ -n "$(password_entry "$name")" ] || ! grep -qs "^$name:" /etc/shadow ||
      echo "shadow entry of $name"
    [ ! -e "$place" ] || echo "home $place"
    [ ! -e "$place.new" ] || echo "home $place.new"
    [ ! -s "$place/.ssh/authorized_keys" ] || echo "keys of $name"
    [ "$number" = "$2" ] || traces "$number" "$name" "$name"
  done
  for number in $(stray_uids); do
    [ "$number" != "$2" ] || continue
    find /home -mindepth 1 -maxdepth 1 -uid "$number" -print0 | tr '\n\0' '?\n' |
      told home "uid $number"
    traces "$number" "uid $number" ""
  done
  for name in $(stray_groups); do
    [ "$name" = "$1" ] || echo "group $name"
  done
}

# What a teardown would put back.
unrestored() {
  for kept in saved absent; do
    [ ! -d "$state/$kept" ] || find "$state/$kept" ! -type d ! -name '*.new' |
      awk -v skip="$state/$kept" '{ print "file " substr($0, length(skip) + 1) ", not restored" }'
  done
  [ ! -e "$state/hostname" ] || echo "host name $(hostname), not restored"
}

# Lines `fault what`.
differences() {
  fence_differences
  if [ -n "$lease" ]; then
    our_accounts | remains "$user" "$uid" | awk '!told[$0]++' | sed 's/^/left_over /'
    lease_differences
  else
    {
      our_accounts | remains "" ""
      unrestored
      [ ! -s "$state/account" ] || echo "note of account $(cut -d ' ' -f 1 "$state/account")"
    } | awk '!told[$0]++' | sed 's/^/left_over /'
  fi
}

lease_differences() {
  entry=$(password_entry "$user")
  if [ -z "$entry" ]; then
    echo "missing account $user"
  else
    numbers=$(echo "$entry" | cut -d : -f 3,4,6)
    [ "$numbers" = "$uid:$uid:$home" ] ||
      echo "changed account $user: numbers and home are $numbers, not $uid:$uid:$home"
    # The rest of the field, behind a comma, is the guest's own.
    text=$(echo "$entry" | cut -d : -f 5)
    [ "${text%%,*}" = "$comment" ] ||
      echo "changed account $user: its comment is '$text', not '$comment'"
  fi
  [ "$(group_entry "$user" | cut -d : -f 3)" = "$uid" ] || echo "missing group $user"
  [ -s "$state/account" ] && [ "$(cat "$state/account")" = "$user $uid $home" ] ||
    echo "missing note of account $user"
  [ -d "$home" ] || echo "missing home $home"
  lacking_keys | while read -r kind blob _; do echo "missing_key $kind $blob"; done
  ! guest_key_lines | grep -q "$trial_mark\$" || echo "left_over one-time key of $user"
  [ "$(hostname)" = "$host_name" ] || echo "changed host name: it is $(hostname), not $host_name"
  printf '%s\n' "$file_paths" | while IFS= read -r path; do
    [ -z "$path" ] || [ -e "$path" ] || echo "missing file $path"
  done
}

# Runs a command as number $1. `su` and `setpriv` would look for a name for it, also in a directory
# that does not answer. A guest may do what it likes with its files while they are read: never wait
# for it without end.
as_uid() {
  as="+$1:+$1"
  shift
  timeout -s KILL 20 chroot --userspec="$as" --groups= / "$@"
}

as_guest() { as_uid "$uid" "$@"; }

most_key_bytes=1000000

guest_key_lines() {
  [ ! -f "$home/.ssh/authorized_keys" ] ||
    as_guest head -c "$most_key_bytes" "$home/.ssh/authorized_keys" 2>/dev/null | tr -d '\0'
}

# The lease's keys that are not among the guest's. The guest may have added others, and options.
lacking_keys() {
  lines=$(guest_key_lines | grep -av '^[[:blank:]]*#')
  printf '%s\n' "$keys" | while read -r kind blob rest; do
    [ -n "$blob" ] || continue
    printf '%s\n' "$lines" | grep -aqF "$kind $blob" || printf '%s\n' "$kind $blob $rest"
  done
}
