# The program behind every hook tool's name once more, for who pays for every start: it does as
# hooktool.py, and Perl starts in a quarter of the time. Every Debian has Perl, a bare one too. It
# imports nothing: the numbers are AF_UNIX and SOCK_STREAM.

my ($AF_UNIX, $SOCK_STREAM) = (1, 1);

sub fail {
    print STDERR "ERROR @_\n";
    exit 1;
}

# Content behind --file: it is this process that sees the charm's files, not the agent.
sub read_file_argument {
    while (defined(my $argument = shift)) {
        last if $argument eq '--';
        my $path =
              $argument eq '--file'               ? $_[0]
            : $argument =~ m{\A--file=(.*)\z}s    ? $1
            :                                       undef;
        next if !defined $path;
        my $file = \*STDIN;
        $path eq '-' or open $file, '<', $path or fail("$path: $!");
        binmode $file;
        local $/;
        return <$file> // '';
    }
    return '';
}

my ($name) = $0 =~ m{([^/]*)\z};
my $message = pack '(N/a*)*', $name, @ARGV, scalar read_file_argument(@ARGV);
my $address = $ENV{JUJU_AGENT_SOCKET_ADDRESS};
socket my $agent, $AF_UNIX, $SOCK_STREAM, 0 or fail("socket: $!");
connect $agent, pack 'S a108', $AF_UNIX, $address or fail("$address: $!");
binmode $_ for $agent, *STDOUT, *STDERR;
select((select($agent), $| = 1)[0]);    # send at once
print $agent pack 'N/a*', $message;
my $answer = do { local $/; <$agent> } // '';
length $answer >= 5 or fail("the agent hung up on $name");
my ($code, $out, $errors) = unpack 'C N/a* a*', $answer;
print STDOUT $out;
print STDERR $errors;
exit $code;
